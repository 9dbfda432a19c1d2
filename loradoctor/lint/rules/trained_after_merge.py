"""LD205."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Model, Optimizer, Peft, Trainer
from loradoctor.lint.flow.values import Oid, Value
from loradoctor.lint.libraries.effects import of
from loradoctor.lint.libraries.torch import parameters_in
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD205", Severity.ERROR, "TR5")
def trained_after_merge(module: Module) -> Iterator[Finding]:
    """A model is trained on after its adapter was merged: nothing in it can change any more.

    `get_peft_model` freezes the base model and `merge_and_unload` takes the only trainable weights out. What is left has no
    parameter that requires a gradient: a loop fails at the first step, and with gradient checkpointing the run can go through
    and change nothing. An optimizer from before the merge holds weights that are in no model any more.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    Trainer(model=model).train()
    model = model.merge_and_unload()
    Trainer(model=model).train()
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    Trainer(model=model).train()
    model = model.merge_and_unload()
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    Trainer(model=model).train()
    ```
    """
    reported: set[int] = set()
    for site in module.calls("train", "step", "torch.optim.*", "bitsandbytes.*", "transformers.AdamW", "transformers.Adafactor"):
        again = {_wrapped_again(arrival) for arrival in site.arrivals}
        for arrival in site.arrivals:
            merged = _merged(module, arrival)
            if merged is None or merged.uid in reported or arrival.oid(_trained_model(arrival)) in again:
                continue
            reported.add(merged.uid)
            yield site.finding(
                "the model is trained after its adapter was merged into it",
                related=module.related(merged, "merged here; from here on nothing in the model is trainable"),
                help="no parameter requires a gradient any more: train before merging, "
                "or put a new adapter in with `get_peft_model` and train that",
            )


def _merged(module: Module, arrival: Arrival) -> ir.Node | None:
    value = _trained_model(arrival)
    oid: Oid | None = arrival.oid(value)
    if oid is None or module.happened("unfrozen", oid):
        return None
    wrapper = arrival.facts(value, Peft)
    if wrapper is not None:
        return None if wrapper.unloaded or wrapper.touched else wrapper.gutted
    model = arrival.facts(value, Model)
    if model is None or model.carries_adapter or model.native or model.touched or module.happened("touched", oid):
        return None
    return model.merged


def _wrapped_again(arrival: Arrival) -> Oid | None:
    """A base into which, on this path, a new adapter went after the merge: the condition for that may never fail."""
    value = _trained_model(arrival)
    wrapper, base = arrival.facts(value, Peft), arrival.base(value)
    if wrapper is None or wrapper.gutted or base is None or base[1].merged_source is None:
        return None
    return base[0]


def _trained_model(arrival: Arrival) -> Value | None:
    trainer = arrival.facts(arrival.receiver, Trainer)
    if trainer is not None:
        return trainer.model
    optimizer = arrival.facts(arrival.receiver, Optimizer)
    if optimizer is not None:
        return of(optimizer.model) if optimizer.model is not None else None
    return parameters_in(arrival.arg("params"))
