"""LD821: a runtime that the adapter is meant for takes it and computes something else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint


@rule("LD821", Severity.WARNING)
def target_silently_wrong(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A runtime named by `--target` loads the adapter and silently computes something else than PEFT.

    Config fields that a server does not read change the result without a word: the scaling of rsLoRA, `alpha_pattern`, an
    initialisation that rewrites the base, tensors whose names match nothing. The answers look plausible and are not those
    of the trained model. Each finding names one cause, the version of the runtime whose source says so, and a way out.

    Only asked for with `--target` or `targets` in the settings.
    """
    if checkpoint.targets:
        from loradoctor.checkpoint.targets import findings

        yield from findings(checkpoint, refused=False)
