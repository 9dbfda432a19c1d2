"""LD820: a runtime that the adapter is meant for does not take it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint


@rule("LD820", Severity.ERROR)
def target_refuses(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A runtime named by `--target` refuses the adapter.

    PEFT loads more than servers do: DoRA, trained biases, modules saved whole, ranks above a default limit, the config fields
    that a server insists on. Each finding names one cause, the version of the runtime whose source says so, and a way out: the flag
    that raises a limit, a field to write otherwise, or merging the adapter into its base.

    Only asked for with `--target` or `targets` in the settings.
    """
    if checkpoint.targets:
        from loradoctor.checkpoint.targets import findings

        yield from findings(checkpoint, refused=True)
