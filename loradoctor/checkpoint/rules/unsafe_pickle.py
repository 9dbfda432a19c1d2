"""LD506: the .bin would run code."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD506", Severity.ERROR, "F5")
def unsafe_pickle(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A `.bin` file calls functions that no state dict needs.

    A `.bin` is a pickle: loading it without `weights_only=True` runs whatever it says. This file mentions functions outside
    those that rebuild tensors. Nothing of it was executed here: the opcodes were read one by one.

    Do not load it. Get the adapter as safetensors from a source you trust.
    """
    yield from checkpoint.reported("unsafe-pickle")
