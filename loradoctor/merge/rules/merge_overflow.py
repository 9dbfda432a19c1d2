"""LD803: the merged weight does not fit the dtype."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.merge.findings import finding, modules
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint


@rule("LD803", Severity.ERROR, "T4")
def merge_overflow(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Merged weights become infinite in the base's dtype.

    Base and adapter are finite, their sum is not: float16 ends at 65504. `merge_and_unload()` writes the infinities without
    a word,
    only `safe_merge=True` looks; the merged model answers NaN.

    Merge in float32 or bfloat16. If the update really is that large, look at `lora_alpha` and at the training first.
    """
    overflowing = modules(checkpoint, lambda m: m.overflow > 0)
    if overflowing:
        count = sum(m.overflow for m in overflowing)
        yield finding(
            checkpoint,
            overflowing,
            f"{count} merged weights overflow {overflowing[0].dtype} in {len(overflowing)} modules",
            "the merged model answers NaN: merge into a float32 or bfloat16 copy of the base, and check `lora_alpha`",
            cause="overflow",
            elements=count,
            dtype=overflowing[0].dtype,
        )
