"""LD507: the .bin is something else than a state dict."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD507", Severity.ERROR, "F5")
def not_a_state_dict(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A `.bin` file holds something else than a state dict.

    `torch.save(model, "adapter_model.bin")` writes the whole model object, and a trainer's checkpoint keeps the state dict under
    a key such as `state_dict`. PEFT refuses the first and silently loads nothing from the second: the model answers like its
    base.

    Save with `model.save_pretrained(directory)`.
    """
    yield from checkpoint.reported("not-a-state-dict")
