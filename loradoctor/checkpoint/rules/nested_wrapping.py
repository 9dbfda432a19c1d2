"""LD601: the keys were saved through two PEFT wrappers."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.fit import other_loader
from loradoctor.checkpoint.wording import counted, evidence, listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD601", Severity.ERROR, "K1")
def nested_wrapping(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The keys read `base_model.model.base_model.model.…`: the model was wrapped twice.

    `get_peft_model` had already wrapped the model when `PeftModel.from_pretrained` or a second `get_peft_model` wrapped it
    again, and the outer one was saved. On the base model PEFT finds none of the keys it looks for: from 0.14 on it warns about
    missing keys, before it says nothing, and the model answers exactly like its base.

    Strip one `base_model.model.` from every key to recover the weights, and load adapters onto the base model in the training
    script.
    """
    names = [k.name for k in checkpoint.keys if "nested" in k.problems]
    if names:
        taken = f"; {way}" if (way := other_loader(checkpoint)) else ""
        yield checkpoint.finding(
            f"{counted(len(names), 'key')} {'was' if len(names) == 1 else 'were'} saved through two PEFT wrappers: {listed(names)}",
            key=names[0],
            help="none of these weights will be used: the model answers like its base. Strip one `base_model.model.` from every key" + taken,
            data=evidence("nested", names),
        )
