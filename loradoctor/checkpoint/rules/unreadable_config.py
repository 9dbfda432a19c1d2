"""LD520: there is no config, or it is not JSON."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD520", Severity.ERROR, "C9")
def unreadable_config(checkpoint: Checkpoint) -> Iterator[Finding]:
    """`adapter_config.json` is missing, is not JSON, or starts with a byte order mark.

    PEFT reads the config before anything else and stops with a bare JSON error. A truncated file, a merge conflict, an editor
    that adds a byte order mark and an empty file left by a failed download are the usual reasons.

    Write it again with `model.peft_config["default"].save_pretrained(directory)`, or restore it.
    """
    if checkpoint.foreign is None and not checkpoint.faults_of("foreign-format"):
        yield from checkpoint.reported("unreadable-config")
