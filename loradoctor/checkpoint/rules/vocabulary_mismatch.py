"""LD616: the adapter's embeddings have another number of tokens than the base."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.checkpoint.fit import data, diagnose
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint


@rule("LD616", Severity.ERROR, "E4", "E5")
def vocabulary_mismatch(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The embeddings in the file have other rows than those of the base: tokens were added before training.

    After `resize_token_embeddings` PEFT saves the resized matrices with the adapter. The plain base does not have these rows, and
    loading stops with a size mismatch that names a matrix, not the tokens.

    Give the base the same number of rows with `model.resize_token_embeddings(n)` before the adapter is loaded, and use the
    tokenizer that was saved with the adapter.
    """
    misfit = diagnose(checkpoint)
    if misfit is None or misfit.kind != "vocabulary" or checkpoint.evidence is None or checkpoint.evidence.loads is None:
        return
    base = checkpoint.evidence.loads.class_name
    key, found, wanted = misfit.detail["key"], misfit.detail["found"], misfit.detail["wanted"]
    yield checkpoint.finding(
        f"the adapter's embeddings have other rows than those of `{base}`: `{key}` is {found}, the base has {wanted}",
        key=str(key),
        help=f"loading stops with a size mismatch: call `model.resize_token_embeddings({_rows(found, wanted)})` on the base first",
        data=data(misfit),
    )


def _rows(found: object, wanted: object) -> object:
    """The axis that differs is the number of tokens."""
    if isinstance(found, list) and isinstance(wanted, list):
        return next((f for f, w in zip(found, wanted, strict=False) if f != w), found)
    return found
