"""LD104."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Config, Peft, Trainer
from loradoctor.lint.flow.values import Value
from loradoctor.lint.libraries.torch import parameters_in
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_LOADED = ("from_pretrained", "auto")


@rule("LD104", Severity.ERROR, "LO2")
def frozen_resume(module: Module) -> Iterator[Finding]:
    """An adapter is loaded for inference and then trained: nothing in it can change.

    `PeftModel.from_pretrained` freezes the adapter unless `is_trainable=True` is passed. A plain loop fails at the first
    step. With gradient checkpointing, with a quantized base and in TRL's trainers the run goes through, prints a loss, and
    changes no weight at all.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "runs/last")
    trainer = Trainer(model=model)
    trainer.train()
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "runs/last", is_trainable=True)
    trainer = Trainer(model=model)
    trainer.train()
    ```
    PEFT before 0.3 has no `is_trainable` and leaves a loaded adapter trainable.
    """
    if module.before("peft", "0.3"):
        return
    reported: set[int] = set()
    for site in module.calls("train", "torch.optim.*", "bitsandbytes.*", "transformers.AdamW", "transformers.Adafactor"):
        for arrival in site.arrivals:
            facts = arrival.facts(_trained_model(arrival), Peft)
            if not facts or not _frozen(facts) or not isinstance(facts.made, ir.Call) or facts.made.uid in reported:
                continue
            reported.add(facts.made.uid)
            yield module.finding(
                facts.made,
                "an adapter is loaded without `is_trainable=True` and then trained",
                related=module.related(site.node, "trained here"),
                help="the loaded adapter is frozen: training changes nothing, often without an error; pass `is_trainable=True`",
                fix=_fix(module, facts.made),
            )


def _trained_model(arrival: Arrival) -> Value | None:
    trainer = arrival.facts(arrival.receiver, Trainer)
    if trainer is not None:  # one that is given a configuration too trains another adapter, or refuses: LD209
        return trainer.model if arrival.facts(trainer.peft_config, Config) is None else None
    return parameters_in(arrival.arg("params"))


def _frozen(facts: Peft) -> bool:
    """Loaded frozen, and nothing seen or unseen has had a chance to change that."""
    return facts.how in _LOADED and facts.trainable is False and not (facts.unfrozen or facts.touched or facts.gutted)


def _fix(module: Module, call: ir.Call) -> Fix | None:
    if any(arg.star or arg.name == "is_trainable" for arg in call.args):
        return None
    return Fix("pass `is_trainable=True`", (module.add_argument(call, "is_trainable=True"),), safe=False)
