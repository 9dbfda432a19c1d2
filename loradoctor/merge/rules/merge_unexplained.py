"""LD815: merged weights that no known mistake explains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.merge.audit_findings import findings
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint

_CAUSES = {
    "unexplained": (
        "{elements} of {of_elements} elements in {count} adapted {tensors} of the merged model are not base plus update",
        "rounding does not explain it and no known mistake does: they were trained on or edited after merging, or are damaged; merge again",
    ),
    "overflow": (
        "{elements} elements of the merged model are infinite or no numbers",
        "float16 ends at 65504, and the model answers NaN: merge and store in bfloat16 or float32",
    ),
}


@rule("LD815", Severity.ERROR)
def merge_unexplained(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Adapted weights of the merged model are neither base plus update nor the result of a known mistake.

    Every element was held against the exact merge. Accepted is what one rounding costs, what rounding the update first costs, and
    PEFT's own arithmetic; what is left over is damage, an edit, training after the merge, or a method that computes something else.

    Merge again from the base and the adapter. If the result is the same, the program that merges is at fault.
    """
    yield from findings(checkpoint, _CAUSES)
