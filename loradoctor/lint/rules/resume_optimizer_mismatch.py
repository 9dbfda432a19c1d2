"""LD216."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Peft, Trainer
from loradoctor.lint.flow.values import Known, Template, Value
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD216", Severity.ERROR, "TR17")
def resume_optimizer_mismatch(module: Module) -> Iterator[Finding]:
    """A run is resumed with a frozen adapter: its optimizer does not fit the checkpoint's.

    The configuration that is saved with an adapter says `inference_mode=True`: an adapter made from it is frozen, also when
    its weights are filled in afterwards. The trainer then makes an optimizer without parameters, and loading the checkpoint's
    state into it fails with "loaded state dict contains a parameter group that doesn't match the size of optimizer's group".
    (An adapter that `PeftModel.from_pretrained` has frozen is `frozen-resume`.)

    ```python
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, PeftConfig.from_pretrained("runs/checkpoint-500"))
    set_peft_model_state_dict(model, load_file("runs/checkpoint-500/adapter_model.safetensors"))
    trainer = Trainer(model=model)
    trainer.train(resume_from_checkpoint="runs/checkpoint-500")
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "runs/checkpoint-500", is_trainable=True)
    trainer = Trainer(model=model)
    trainer.train(resume_from_checkpoint="runs/checkpoint-500")
    ```
    """
    for site in module.calls("train"):
        found = site.sometimes(_resumes_frozen)
        facts = _resumes_frozen(found) if found else None
        if facts is not None:
            yield site.finding(
                "a run is resumed with an adapter whose saved configuration freezes it",
                related=module.related(facts.made, "made frozen here: the saved configuration says `inference_mode=True`"),
                help="the optimizer is empty and does not fit the checkpoint's state; load with `PeftModel.from_pretrained(base, path, "
                "is_trainable=True)`",
            )


def _resumes_frozen(arrival: Arrival) -> Peft | None:
    """The frozen adapter of a trainer that certainly resumes from a checkpoint."""
    trainer = arrival.facts(arrival.receiver, Trainer)
    facts = arrival.facts(trainer.model, Peft) if trainer else None
    if facts is None or facts.how != "get_peft_model" or not _resumes(arrival.arg("resume_from_checkpoint")):
        return None
    return facts if facts.trainable is False and not (facts.unfrozen or facts.touched or facts.gutted) else None


def _resumes(value: Value | None) -> bool:
    return isinstance(value, Template) or (isinstance(value, Known) and bool(value.value))
