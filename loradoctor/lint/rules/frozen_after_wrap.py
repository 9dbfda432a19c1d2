"""LD203."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Model, Peft, Trainer
from loradoctor.lint.flow.values import Value
from loradoctor.lint.libraries.torch import parameters_in
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD203", Severity.ERROR, "TR3")
def frozen_after_wrap(module: Module) -> Iterator[Finding]:
    """The adapter is frozen after it was put in, by `prepare_model_for_kbit_training` or by hand, and then trained.

    `prepare_model_for_kbit_training` turns off the gradient of every parameter. Called before `get_peft_model` that is what
    one wants; called after it, the adapter is frozen too. With a quantized base the run goes through and changes nothing.

    ```python
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, Trainer

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    model = prepare_model_for_kbit_training(model)
    Trainer(model=model).train()
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, Trainer

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = prepare_model_for_kbit_training(model)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    Trainer(model=model).train()
    ```
    """
    seen: dict[int, tuple[ir.Node, ir.Node]] = {}
    clean: set[int] = set()
    for site in module.calls("train", "torch.optim.*", "bitsandbytes.*", "transformers.AdamW", "transformers.Adafactor"):
        for arrival in site.arrivals:
            frozen = _frozen_at(arrival, _trained_model(arrival))
            if frozen is not None:
                seen.setdefault(frozen.uid, (frozen, site.node))
            else:
                clean.add(site.node.uid)
    for frozen, trained in seen.values():
        certain = trained.uid not in clean and module.trace.complete
        prepared = isinstance(frozen, ir.Call) and "prepare_model_for" in module.text(frozen)
        what = "`prepare_model_for_kbit_training` freezes" if prepared else "all parameters, the adapter's included, are frozen"
        yield module.finding(
            frozen,
            f"{what} the adapter, because it is called after the model was wrapped" if prepared else f"{what} after the model was wrapped",
            severity=Severity.ERROR if certain else Severity.WARNING,
            related=module.related(trained, "trained here"),
            help="no parameter can change: the run fails, or with a quantized base ends without having trained anything; "
            + ("call it before `get_peft_model`" if prepared else "freeze before `get_peft_model`, which leaves the adapter trainable"),
        )


def _trained_model(arrival: Arrival) -> Value | None:
    trainer = arrival.facts(arrival.receiver, Trainer)
    return trainer.model if trainer is not None else parameters_in(arrival.arg("params"))


def _frozen_at(arrival: Arrival, model: Value | None) -> ir.Node | None:
    facts = arrival.facts(model, Peft)
    base = arrival.base(model)
    if facts is None or facts.gutted or facts.unfrozen or facts.touched or facts.trainable is not True:
        return None
    inner: Model | None = base[1] if base else None
    if inner is not None and (inner.unfrozen or inner.touched):
        return None
    return facts.frozen or (inner.frozen if inner else None)
