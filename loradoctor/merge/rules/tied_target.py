"""LD806: the adapted weight is somebody else's too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.merge.findings import finding, modules, replicated
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint


@rule("LD806", Severity.ERROR, "E6", "E7")
def tied_target(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The adapter targets a weight that is tied to another module.

    Small models use one matrix as input embedding and as output layer. An adapter on one of the two changes that one only, as
    long as it is not merged; merging writes into the shared matrix and changes both. The merged model answers nonsense, and PEFT
    warns at most.

    Serve the adapter unmerged, untie the base before merging (`tie_word_embeddings=False` and a copy of the matrix), or
    train with
    `modules_to_save` instead of `target_modules` for these layers.
    """
    tied = modules(checkpoint, lambda m: bool(m.shared_with) and m.status in ("different", "shared"))
    if tied and not replicated(checkpoint):
        other = tied[0].shared_with[0]
        yield finding(
            checkpoint,
            tied,
            f"the weight of an adapted module is tied to that of `{other}`, so merging changes both",
            "the merged model is not the trained one: serve the adapter unmerged, or untie the base before merging",
            cause="tied",
            shared_with=list(tied[0].shared_with),
        )
