"""LD810: the update is not in the merged model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.merge.audit_findings import findings
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint

_CAUSES = {
    "not-merged": (
        "the adapter is not in the merged model: all {count} adapted {tensors} {are} the base's",
        "it answers like the base model: save what `merge_and_unload()` returns, not the model that it is called on",
    ),
    "partly-merged": (
        "the adapter is in some layers of the merged model only: {count} of {of} adapted {tensors} {are} the base's",
        "merge again from the base and this adapter; whatever merged this passed over these modules without a word",
    ),
    "rounded-away": (
        "{lost} of the update is lost to rounding: in {dtype} the merged weights are closer to the base's than to the trained ones",
        "the update is smaller than a step of {dtype}: merge and store in float32, or serve the adapter unmerged",
    ),
}


@rule("LD810", Severity.ERROR)
def merge_not_applied(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The merged model does not have the adapter's update.

    What every adapted weight gained over the base was projected onto the adapter's update: nothing is there, in all modules or
    in some. Usually the result of `merge_and_unload()` was not assigned, or the base model was saved in its place. A merge in
    bfloat16 may also round a small update away, element by element. The merged model loads and answers, like the base.

    Merge again and save what `merge_and_unload()` returns; where rounding took the update, merge and store in float32.
    """
    yield from findings(checkpoint, _CAUSES)
