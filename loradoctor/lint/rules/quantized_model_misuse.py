"""LD215."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Config, Model
from loradoctor.lint.flow.values import NONE, Items, Known, Ref
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.rule import rule

_BITS = ("4-bit", "8-bit")
_LINEAR = frozenset(
    """
    q_proj k_proj v_proj o_proj out_proj gate_proj up_proj down_proj query_key_value dense_h_to_4h dense_4h_to_h c_attn c_fc
    fc1 fc2 qkv_proj gate_up_proj wqkv self_attn mlp Wqkv query key value
    """.split()
)


@rule("LD215", Severity.ERROR, "QT3", "QT5", "QT6")
def quantized_model_misuse(module: Module) -> Iterator[Finding]:
    """A quantized model is cast, moved or trained in a way that it cannot be.

    The packed weights of a model that bitsandbytes quantized are not numbers that can be cast: `.half()`, `.float()` and
    `.to(dtype)` raise, and so does `.cuda()` in 8-bit. They carry no gradient either: a trainer refuses such a model without an
    adapter, and a quantized linear layer in `modules_to_save` fails when PEFT makes it trainable.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(load_in_8bit=True)
    base = AutoModelForCausalLM.from_pretrained("gpt2", quantization_config=quantization)
    base = base.half()
    model = PeftModel.from_pretrained(base, "adapter")
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(load_in_8bit=True)
    base = AutoModelForCausalLM.from_pretrained("gpt2", quantization_config=quantization)
    model = PeftModel.from_pretrained(base, "adapter")
    ```
    """
    if module.is_test:
        return
    yield from _casts(module)
    yield from _trainers(module)
    yield from _saved_modules(module)


def _quantized(facts: Model | None) -> bool:
    return facts is not None and facts.quantized in _BITS and not facts.touched and facts.cls.startswith("transformers.")


def _casts(module: Module) -> Iterator[Finding]:
    def refused(arrival: Arrival) -> bool:
        facts = arrival.facts(arrival.receiver, Model)
        if not _quantized(facts) or facts is None or facts.merged:
            return False
        name = arrival.visit.name
        if name == "cuda":
            return facts.quantized == "8-bit"
        return name in ("half", "float") or any(_is_dtype(v) for v in (*arrival.visit.binding.positional, arrival.arg("dtype")))

    for site in module.calls("half", "float", "cuda", "to"):
        found = site.sometimes(refused)
        facts = found.facts(found.receiver, Model) if found else None
        if facts is None or not site.always(refused):
            continue
        yield site.finding(
            f"`.{site.name}(…)` is called on a model quantized to {facts.quantized}",
            related=module.related(facts.made, "loaded quantized here"),
            help="this raises a `ValueError`: a quantized model is on its device and in its type from the start; remove the call",
            fix=_fix(module, site),
        )


def _is_dtype(value: object) -> bool:
    return isinstance(value, Ref) and value.name in ("torch.float16", "torch.half", "torch.bfloat16", "torch.float32", "torch.float")


def _fix(module: Module, site: Site) -> Fix | None:
    """Take the call out of its chain; a statement that does nothing else is deleted."""
    func = site.node.func
    if not isinstance(func, ir.Attr) or len(site.node.args) > 1:
        return None
    own = next((s for s in module.assignments() if s.value is site.node), None)
    if own is not None and len(own.targets) == 1 and module.text(own.targets[0]) == module.text(func.value):
        return Fix("remove the call", (module.delete_statement(own),))
    if site.dropped:
        return None
    return Fix("remove the call", (module.replace(site.node, module.text(func.value)),))


def _trainers(module: Module) -> Iterator[Finding]:
    def bare(arrival: Arrival) -> bool:
        facts = arrival.facts(arrival.arg("model"), Model)
        plain = facts is not None and _quantized(facts) and not (facts.native or facts.wrapper or facts.injected or facts.merged)
        return plain and arrival.arg("peft_config") in (None, NONE) and not arrival.visit.binding.open

    for site in module.calls("transformers.Trainer", "transformers.Seq2SeqTrainer", "trl.SFTTrainer", "trl.DPOTrainer"):
        found = site.sometimes(bare)
        facts = found.facts(found.arg("model"), Model) if found else None
        if facts is not None and site.always(bare):
            yield site.finding(
                "a quantized model without an adapter is given to a trainer",
                related=module.related(facts.made, "loaded quantized here"),
                help="the trainer raises: quantized weights cannot be trained; put an adapter in with `get_peft_model` first",
            )


def _saved_modules(module: Module) -> Iterator[Finding]:
    for site in module.calls("peft.get_peft_model", "trl.SFTTrainer", "trl.DPOTrainer"):
        for arrival in site.arrivals:
            base = arrival.base(arrival.arg("model"))
            config = arrival.facts(arrival.arg("peft_config"), Config)
            listed = config.get("modules_to_save") if config else None
            if base is None or config is None or not _quantized(base[1]) or not isinstance(listed, Items):
                continue
            wrong = [str(v.value) for v in listed.items if isinstance(v, Known) and v.value in _LINEAR]
            if wrong:
                yield module.finding(
                    config.made or site.node,
                    f"`modules_to_save` names `{wrong[0]}`, which is quantized",
                    related=module.related(base[1].made, "loaded quantized here"),
                    help="only floating point weights can be trained, and PEFT raises; "
                    "name such layers in `target_modules`, or leave them out of the quantization",
                )
                break
