"""LD502: the weights file is damaged."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD502", Severity.ERROR, "F2")
def unreadable_weights(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The weights file is damaged or is not what its name says.

    It is empty, truncated, has bytes to spare, or its header contradicts itself: a length beyond the file, overlapping tensors,
    a hole, a shape that does not fit its bytes, an unknown dtype. Or it is a pickle called `.safetensors`, or the reverse. The
    finding names the byte at which the contradiction is; the usual reader says only `Error while deserializing header`.

    Copy or download the file again. If the trainer died while saving, use the checkpoint before.
    """
    yield from checkpoint.reported("unreadable-weights")
