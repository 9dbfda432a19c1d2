"""LD212."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Peft, Trainer
from loradoctor.lint.flow.values import Known, Value
from loradoctor.lint.libraries.torch import parameters_in
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_OTHER_WAYS = frozenset({"ref_adapter_name", "model_adapter_name", "adapter_names", "active_adapter", "active_adapters", "set_requires_grad"})
_ONE_MODEL = ("transformers.", "trl.SFT", "trl.Reward")
"""Trainers that train the active adapter; those with a reference policy use further adapters in their own way."""


@rule("LD212", Severity.ERROR, "MA3")
def second_adapter_not_trained(module: Module) -> Iterator[Finding]:
    """An adapter is added and the model trained, but the added adapter is not the one that learns.

    `PeftModel.add_adapter` leaves the active adapter active: only `default` gets gradients and changes. The added one is
    saved as it was drawn, which is as if it were not there.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    model.add_adapter("poet", LoraConfig(r=16, task_type="CAUSAL_LM"))
    Trainer(model=model).train()
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    model.add_adapter("poet", LoraConfig(r=16, task_type="CAUSAL_LM"))
    model.set_adapter("poet")
    Trainer(model=model).train()
    ```
    Activate it before an optimizer is made: the optimizer holds what is trainable then.
    """
    if module.is_test or not module.program.words.isdisjoint(_OTHER_WAYS):
        return
    reported: set[int] = set()
    for site in module.calls("train", "torch.optim.*", "bitsandbytes.*", "transformers.AdamW", "transformers.Adafactor"):
        for arrival in site.arrivals:
            model = _trained_model(arrival)
            facts = arrival.facts(model, Peft)
            if facts is None or facts.touched or facts.unfrozen or facts.gutted or facts.how in ("mixed", "unseen"):
                continue
            if facts.trainable is False:  # loaded frozen and trained: that comes first, and has a rule of its own
                continue
            if module.happened("activated", arrival.oid(model)):
                continue
            for waiting in facts.waiting:
                if waiting.how != "add" or waiting.site.uid in reported or facts.filled:
                    continue
                reported.add(waiting.site.uid)
                name = f" `{waiting.name.value}`" if isinstance(waiting.name, Known) else ""
                yield module.finding(
                    waiting.site,
                    f"adapter{name} is added, and another one is trained",
                    related=module.related(site.node, "trained here"),
                    help="`add_adapter` leaves the active adapter active: the new one gets no gradient; call `set_adapter` before training",
                )


def _trained_model(arrival: Arrival) -> Value | None:
    trainer = arrival.facts(arrival.receiver, Trainer)
    if trainer is not None:
        return trainer.model if trainer.cls.startswith(_ONE_MODEL) else None
    return parameters_in(arrival.arg("params"))
