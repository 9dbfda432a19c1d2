"""LD408."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Config, Peft, Trainer
from loradoctor.lint.flow.values import Known, Value
from loradoctor.lint.libraries.torch import parameters_in
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD408", Severity.ERROR, "CF10")
def inference_mode_training(module: Module) -> Iterator[Finding]:
    """An adapter made with `inference_mode=True` is trained: nothing in it can change.

    With that setting `get_peft_model` makes an adapter whose parameters are all frozen. A plain loop fails for want of
    gradients; with a quantized base or gradient checkpointing training can run through and change nothing.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", inference_mode=True))
    Trainer(model=model).train()
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", inference_mode=False))
    Trainer(model=model).train()
    ```
    """
    reported: set[int] = set()
    for site in module.calls("train", "torch.optim.*", "bitsandbytes.*", "transformers.AdamW", "transformers.Adafactor"):
        for arrival in site.arrivals:
            facts = arrival.facts(_trained_model(arrival), Peft)
            config = _frozen_by(arrival, facts)
            if config is None or not isinstance(config.made, ir.Call) or config.made.uid in reported:
                continue
            reported.add(config.made.uid)
            arg = next((a for a in config.made.args if a.name == "inference_mode"), None)
            written = arg is not None and isinstance(arg.value, ir.Const)
            yield module.finding(
                arg.value if arg else config.made,
                "an adapter that is made with `inference_mode=True` is trained",
                related=module.related(site.node, "trained here"),
                help="the adapter is frozen and training changes nothing; leave `inference_mode` False",
                fix=Fix("write `inference_mode=False`", (module.replace(arg.value, "False"),)) if arg and written else None,
            )


def _trained_model(arrival: Arrival) -> Value | None:
    trainer = arrival.facts(arrival.receiver, Trainer)
    return trainer.model if trainer is not None else parameters_in(arrival.arg("params"))


def _frozen_by(arrival: Arrival, facts: Peft | None) -> Config | None:
    """The configuration that froze a wrapper, unless something has had a chance to thaw it."""
    if facts is None or facts.how != "get_peft_model" or facts.unfrozen or facts.touched or facts.gutted or facts.waiting:
        return None
    config = arrival.facts(facts.config, Config)
    frozen = config is not None and not config.changed and config.get("inference_mode") == Known(True)  # noqa: FBT003
    return config if frozen else None
