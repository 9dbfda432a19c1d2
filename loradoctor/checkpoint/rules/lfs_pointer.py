"""LD503: the weights are a Git LFS pointer."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD503", Severity.ERROR, "F2")
def lfs_pointer(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The weights file is a Git LFS pointer.

    The repository was cloned without Git LFS, or downloaded as an archive: the file holds three lines of text that say where the
    real weights are. The reader's message, `header too large`, does not help anybody.

    Run `git lfs install && git lfs pull` in the clone, or download the file from the hub.
    """
    yield from checkpoint.reported("lfs-pointer")
