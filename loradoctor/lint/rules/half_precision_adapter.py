"""LD207."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Config, Peft, Trainer
from loradoctor.lint.flow.values import NONE, Items, Known, Ref, Value
from loradoctor.lint.libraries.effects import of
from loradoctor.lint.module import Arrival, Module, literal
from loradoctor.rule import rule

_SMALL = 5e-5
"""Half the spacing of bf16 numbers around a freshly drawn `lora_A`: smaller steps of Adam are rounded away."""


@rule("LD207", Severity.ERROR, "TR7", "TR8")
def half_precision_adapter(module: Module) -> Iterator[Finding]:
    """The trainable weights are in half precision: fp16 training fails at them, bf16 loses small updates.

    PEFT keeps the adapter in fp32 over a half-precision base. Casting the model after wrapping, `autocast_adapter_dtype=False`
    and, on an fp16 base, `modules_to_save` undo that. With `fp16=True` the gradient scaler refuses them: "Attempting to unscale
    FP16 gradients". In bf16, steps as small as 5e-5 are rounded away and the adapter hardly moves.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    model.half()
    Trainer(model=model, args=TrainingArguments("runs", fp16=True, learning_rate=2e-4)).train()
    ```
    What to write instead:
    ```python
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    base = AutoModelForCausalLM.from_pretrained("gpt2", dtype=torch.float16)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    Trainer(model=model, args=TrainingArguments("runs", fp16=True, learning_rate=2e-4)).train()
    ```
    After loading modules in half precision, `peft.helpers.cast_mixed_precision_params(model, torch.float16)` casts them right.
    """
    if "cast_mixed_precision_params" in module.program.words or module.is_test or module.before("peft", "0.12"):
        return
    reported: set[int] = set()
    for site in module.calls("train"):
        for arrival in site.arrivals:
            trainer = arrival.facts(arrival.receiver, Trainer)
            made = arrival.maker(arrival.receiver)
            settings = made.maker(made.arg("args")) if made else None
            facts = arrival.facts(trainer.model, Peft) if trainer else None
            if trainer is None or settings is None or facts is None or facts.touched or facts.prompt or facts.trainable is False:
                continue
            cause, dtype = _halved(module, arrival, trainer.model, facts)
            if cause is None or cause.uid in reported:
                continue
            fp16 = literal(settings.arg("fp16")) is True
            if fp16 and dtype == "float16":
                reported.add(cause.uid)
                yield module.finding(
                    cause,
                    "the trainable weights are in fp16, and training runs with `fp16=True`",
                    related=module.related(site.node, "trained here"),
                    help='the gradient scaler fails with "Attempting to unscale FP16 gradients"; leave the adapter in fp32, '
                    "which is PEFT's default, or call `cast_mixed_precision_params(model, torch.float16)`",
                )
            elif dtype == "bfloat16" and _is_small(settings):
                reported.add(cause.uid)
                yield module.finding(
                    cause,
                    "the adapter is cast to bf16 and trained with a learning rate whose steps bf16 rounds away",
                    severity=Severity.WARNING,
                    related=module.related(site.node, "trained here"),
                    help="most updates are lost; leave the adapter in fp32, or raise the learning rate",
                )


def _is_small(settings: Arrival) -> bool:
    rate = settings.arg("learning_rate")
    value = literal(rate)
    return rate is None or (isinstance(value, float) and value <= _SMALL)


def _loaded_in(arrival: Arrival, model: Value | None) -> str:
    """The dtype that the base model was loaded in; none for a quantized one, whose other weights are cast up when it is prepared."""
    base = arrival.base(model)
    loaded = arrival.maker(of(base[0])) if base and base[1].quantized is None else None
    if loaded is not None and loaded.arg("quantization_config") not in (None, NONE):
        return ""
    return _name(loaded.arg("dtype") or loaded.arg("torch_dtype")) if loaded else ""


def _copies_modules(config: Config) -> bool:
    """Whether whole modules are trained, in the type that the base has them in."""
    saved = config.get("modules_to_save") if config.complete else None
    return isinstance(saved, Items) and bool(saved.items)


def _halved(module: Module, arrival: Arrival, model: Value | None, facts: Peft) -> tuple[ir.Node | None, str]:
    """Where the trainable weights became fp16 or bf16, and which."""
    wrapper = arrival.oid(model)
    last: tuple[int, ir.Node, str] | None = None
    for site in module.calls("half", "bfloat16", "to", "float"):
        for a in site.arrivals:
            dtype = _dtype(a)
            if dtype and a.oid(a.receiver) == wrapper and a.visit.step < arrival.visit.step and (not last or a.visit.step > last[0]):
                last = a.visit.step, site.node, dtype
    if last is not None:
        return last[1], last[2]
    dtype = _loaded_in(arrival, model)
    wrapped = module.sites.get(facts.made.uid) if facts.made else None
    if dtype and wrapped is not None and (wrapped.name == "peft.get_peft_model" or facts.how == "SFTTrainer"):
        if wrapped.always(lambda a: literal(a.arg("autocast_adapter_dtype")) is False):
            return wrapped.node, dtype
        config = arrival.facts(facts.config, Config)
        if config and dtype == "float16" and _copies_modules(config):
            return config.made or wrapped.node, dtype
    return None, ""


def _dtype(arrival: Arrival) -> str:
    name = arrival.visit.name
    if name != "to":
        return {"half": "float16", "bfloat16": "bfloat16", "float": "float32"}[name]
    return next((d for v in arrival.visit.binding.values.values() if (d := _name(v))), "") or next(
        (d for v in arrival.visit.binding.positional if (d := _name(v))), ""
    )


def _name(value: Value | None) -> str:
    """The dtype that a value stands for."""
    text = value.name if isinstance(value, Ref) else value.value if isinstance(value, Known) else ""
    last = str(text).removeprefix("torch.")
    last = {"half": "float16"}.get(last, last)
    return last if last in ("float16", "bfloat16", "float32") else ""
