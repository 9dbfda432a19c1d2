"""LD802: the base's dtype is too coarse for the update."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.merge.findings import finding, modules
from loradoctor.merge.summary import LOST_ERROR, LOST_WARNING, effect, lost
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint


@rule("LD802", Severity.WARNING, "T7")
def update_lost_to_rounding(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Storing the merged weights in the base's dtype throws away part of what was learned.

    A bfloat16 weight has eight bits of precision: an update below half a step of the weight vanishes when the sum is
    rounded. The share
    that is lost is measured here: the difference between PEFT's merged weight and the exact one, over the norm of the update.
    Logits do not show it, because the noise of a bfloat16 forward pass is larger; evaluations do. Above a tenth this is a
    warning,
    above one half an error: the merged model is closer to the base model plus noise than to the trained one.

    Keep the adapter unmerged, or merge into a float32 copy of the base and store that.
    """
    merged = modules(checkpoint, lambda m: m.lost is not None and m.status == "equal")
    share = lost(merged)
    if share is None or share <= LOST_WARNING:
        return
    ordered = sorted(merged, key=lambda m: -(m.lost or 0.0))
    strength = effect(merged) or 0.0
    yield finding(
        checkpoint,
        ordered,
        f"{share:.0%} of the update is lost when the merged weights are stored as {merged[0].dtype}, most in",
        f"the update is {strength:.1e} of the weights, close to the step of {merged[0].dtype}: keep the adapter "
        "unmerged, or merge and store in float32",
        Severity.ERROR if share > LOST_ERROR else None,
        cause="rounding",
        lost=share,
        effect=strength,
        dtype=merged[0].dtype,
    )
