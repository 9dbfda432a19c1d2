"""LD805: several adapted layers, one weight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.merge.findings import finding, modules, replicated, worst
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint


@rule("LD805", Severity.ERROR, "C16")
def layer_replication(checkpoint: Checkpoint) -> Iterator[Finding]:
    """An adapter with `layer_replication` is merged into layers that share their weights.

    `layer_replication` repeats layers of the base without copying them: each copy has an adapter of its own, but all stand
    on one weight.
    Merging adds every copy's update to that weight, so each copy then carries the updates of the others. PEFT does not
    object, with
    `safe_merge=True` neither.

    Serve the adapter unmerged. To merge, build the deeper base with weights of its own first and load the adapter onto that.
    """
    if replicated(checkpoint) and not (checkpoint.evidence is not None and checkpoint.evidence.merge):
        yield checkpoint.finding(
            "the adapter repeats layers of the base (`layer_replication`), so it cannot be merged",
            "layer_replication",
            of="config",
            help="merging adds the updates of all copies to the one weight they share, and PEFT does not object: serve it unmerged",
            data={"cause": "layer-replication"},
        )
        return
    summed = modules(checkpoint, lambda m: bool(m.shared_with) and m.status in ("different", "shared"))
    if summed and replicated(checkpoint):
        yield finding(
            checkpoint,
            summed,
            f"{len(summed)} replicated modules share their weight, and merging adds all their updates to it (outputs "
            f"differ by {worst(summed) or 0.0:.1e})",
            "the merged model is not the trained one: serve the adapter unmerged",
            cause="layer-replication",
            difference=worst(summed),
        )
