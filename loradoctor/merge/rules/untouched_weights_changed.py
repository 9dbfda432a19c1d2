"""LD812: weights that the adapter leaves alone are not the base's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.merge.audit_findings import findings
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint

_CAUSES = {
    "other-base": (
        "the adapter was merged into another base: {count} of the {of} tensors that it leaves alone differ",
        "give `--base` the model that it was merged into, and make sure that it is the one that the adapter was trained on",
    ),
    "quantized-base": (
        "the adapter was merged into a base that had been quantized to {format}: {count} {tensors} carry the error of that",
        "load the base in its own dtype, not in 4 or 8 bits, and merge again",
    ),
    "weights-changed": (
        "{count} of the {of} tensors that the adapter leaves alone are not the base's",
        "they were trained or edited outside the adapter, or are damaged: what the adapter holds cannot have made this model",
    ),
}


@rule("LD812", Severity.ERROR)
def untouched_weights_changed(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Weights that no adapter touches differ between the base and the merged model.

    Merging changes the adapted weights and nothing else, so all others must be the base's, bit by bit or rounded to the merged
    model's dtype. When nearly all differ, the adapter was merged into another model than the one given as the base: perhaps the
    instruction-tuned one, or the one that was quantized for training (QLoRA) and taken up again. A few that differ were trained
    beside the adapter, edited, or damaged in storage.

    Merge again into the base that the adapter was trained on, or name the right one with `--base`.
    """
    yield from findings(checkpoint, _CAUSES)
