"""LD211."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Config, Model
from loradoctor.lint.flow.values import Derived
from loradoctor.lint.libraries.peft import PROMPT_CONFIGS
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.rule import rule

_SHARDED = frozenset({"deepspeed", "fsdp", "FSDP", "FullyShardedDataParallel", "DeepSpeedPlugin", "bnb_4bit_quant_storage"})


@rule("LD211", Severity.WARNING, "QT1")
def kbit_unprepared(module: Module) -> Iterator[Finding]:
    """A quantized base is wrapped and trained without `prepare_model_for_kbit_training`.

    The call casts layer norms and the head to fp32 and lets gradients through the frozen embeddings. Without it training runs
    in lower precision and can become unstable; with gradient checkpointing the adapter may get no gradient at all. TRL's
    trainers prepare a base they wrap themselves; with FSDP or ZeRO-3 the call must be left out.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    Trainer(model=model).train()
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    base = prepare_model_for_kbit_training(base)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    Trainer(model=model).train()
    ```
    """
    if not module.program.words.isdisjoint(_SHARDED) or _cast_by_hand(module):
        return

    def unprepared(arrival: Arrival) -> Model | None:
        base = arrival.base(arrival.arg("model"))
        facts = base[1] if base else None
        bits = facts is not None and facts.quantized in ("4-bit", "8-bit")
        return facts if bits and facts is not None and not facts.prepared and not facts.touched else None

    by_hand = any(True for _ in module.calls("enable_input_require_grads"))
    wrapped: dict[ir.Node | None, list[tuple[Site, Model, bool]]] = {}
    for site in module.calls("peft.get_peft_model"):
        found = site.sometimes(lambda a: unprepared(a) is not None and not _at_the_input(a)) or site.sometimes(unprepared)
        facts = unprepared(found) if found else None
        base = found.base(found.arg("model")) if found else None
        if found is None or facts is None or base is None or module.happened("prepared", base[0]) or not _trained(module, found):
            continue
        wrapped.setdefault(facts.made, []).append((site, facts, by_hand or _at_the_input(found)))
    for made, places in wrapped.items():
        (site, facts, flows), *others = sorted(places, key=lambda place: place[2])
        yield site.finding(
            f"a base quantized to {facts.quantized} is wrapped without `prepare_model_for_kbit_training`",
            severity=Severity.INFO if flows else Severity.WARNING,
            related=(
                *module.related(made, "loaded quantized here"),
                *(place for other, _, _ in others for place in module.related(other.node, "and wrapped here")),
            ),
            help="layer norms and head stay in half precision"
            + ("" if flows else " and inputs carry no gradient")
            + "; call `model = prepare_model_for_kbit_training(model)` before `get_peft_model`",
        )


def _at_the_input(wrapping: Arrival) -> bool:
    """Whether what is trained are virtual tokens: the gradient reaches them through whatever is frozen."""
    config = wrapping.facts(wrapping.arg("peft_config"), Config)
    return config is not None and config.cls in PROMPT_CONFIGS


def _cast_by_hand(module: Module) -> bool:
    """Whether the program does itself what the call does: cast single parameters to fp32."""
    return any(s.name == "data" and isinstance(s.receiver, Derived) and s.receiver.kind == "parameter" for s in module.stores)


def _trained(module: Module, wrapping: Arrival) -> bool:
    oid = getattr(wrapping.visit.result, "oid", None)
    return bool(module.happened("trained", oid) or module.happened("optimized", oid))
