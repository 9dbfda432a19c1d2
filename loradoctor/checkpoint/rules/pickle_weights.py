"""LD510: the adapter is stored as a pickle."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD510", Severity.INFO, "SE2")
def pickle_weights(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The weights are a `.bin`, which is a pickle.

    PEFT loads it with `weights_only=True`, but other programs may not, and a pickle can run code. Hubs and servers mark such
    files, some refuse them.

    Load the adapter once and save it again: `save_pretrained` of any current PEFT writes safetensors.
    """
    if checkpoint.weights is not None and checkpoint.weights.suffix == ".bin" and checkpoint.tensors:
        yield checkpoint.finding(
            f"`{checkpoint.weights.name}` is a pickle; safetensors holds the same tensors and can run nothing",
            help="load the adapter and save it again with `save_pretrained`",
            data={"cause": "pickle"},
        )
