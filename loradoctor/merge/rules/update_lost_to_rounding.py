"""LD802: the base's dtype is too coarse for the update."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.merge.findings import finding, modules
from loradoctor.merge.summary import LOST_ERROR, LOST_WARNING, PREDICTED, effect, keeping, lost, stored_as
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint


@rule("LD802", Severity.WARNING, "T7")
def update_lost_to_rounding(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Storing the merged weights in the base's dtype throws away part of what was learned.

    A bfloat16 weight has eight bits of precision: an update below half a step of the weight vanishes when the sum is rounded. On a
    quantized base the steps are coarser by far: PEFT takes the weights up, adds the update and quantizes the sum again. The share
    that is lost is measured here: the difference between the merged weight as it is stored and the exact one, over the norm of the
    update. Logits do not show it, because the noise of a bfloat16 forward pass is larger; evaluations do. Above a tenth this is a
    warning, above one half an error: the merged model is closer to the base model plus noise than to the trained one.

    Keep the adapter unmerged, or merge into a copy of the base in the dtype that the finding names and store that. For a quantized
    base this is the 16-bit model that it was made of; quantizing the result again loses the same share.
    """
    merged = modules(checkpoint, lambda m: m.lost is not None and m.status == "equal")
    share = lost(merged)
    audit = checkpoint.evidence.audit if checkpoint.evidence is not None else None
    # What has happened to a merged model is LD810; that it would happen again says nothing more.
    if share is None or share <= LOST_WARNING or (audit is not None and audit.named("rounded-away")):
        return
    ordered = sorted(merged, key=lambda m: -(m.lost or 0.0))
    strength, dtype = effect(merged) or 0.0, stored_as(merged)
    quantized = dtype not in PREDICTED
    better = keeping(merged)
    into = "the 16-bit base that this one was quantized from" if quantized else "a copy of the base"
    way_out = f"merge into {into} and store {better[0]}, which loses {better[1]:.1%}" if better else "no dtype keeps it"
    yield finding(
        checkpoint,
        ordered,
        f"{share:.0%} of the update is lost when the merged weights are {'quantized' if quantized else 'stored'} as {dtype}, most in",
        f"the update is {strength:.1e} of the weights, close to the step of {dtype}: keep the adapter unmerged, or {way_out}",
        Severity.ERROR if share > LOST_ERROR else None,
        cause="requantized" if quantized else "rounding",
        lost=share,
        effect=strength,
        dtype=dtype,
        keeps=better[0] if better else None,
    )
