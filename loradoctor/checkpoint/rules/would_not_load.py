"""LD617: PEFT raises, and nothing else explains why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.checkpoint.fit import data, diagnose
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint


@rule("LD617", Severity.ERROR)
def would_not_load(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The installed PEFT refuses to load the adapter onto this base.

    The adapter was loaded with `PeftModel.from_pretrained` onto the base model built from its config, and PEFT raised. The
    message
    is PEFT's own. A size mismatch of embedding rows means that tokens were added before training: the base has to be given
    the same
    number of rows with `model.resize_token_embeddings(n)` before the adapter is loaded.

    Other reasons are a config value that the installed version does not know, or a library that the method needs.
    """
    misfit = diagnose(checkpoint)
    if misfit is None or checkpoint.evidence is None or checkpoint.evidence.loads is None:
        return
    base = checkpoint.evidence.loads.class_name
    if misfit.kind == "vocabulary":
        key, found, wanted = misfit.detail["key"], misfit.detail["found"], misfit.detail["wanted"]
        rows = max(found) if isinstance(found, list) else found
        yield checkpoint.finding(
            f"the adapter's embeddings have other rows than those of `{base}`: `{key}` is {found}, the base has {wanted}",
            key=str(key),
            help="loading stops with a size mismatch: "
            f"call `model.resize_token_embeddings({_rows(found, wanted, rows)})` on the base first",
            data=data(misfit),
        )
    elif misfit.kind == "raises":
        yield checkpoint.finding(
            f"PEFT cannot load the adapter onto `{base}`: {misfit.detail['error']}",
            of="directory",
            help="nothing is loaded; `loradoctor explain LD617` lists the usual reasons",
            data=data(misfit),
        )


def _rows(found: object, wanted: object, otherwise: object) -> object:
    """The axis that differs is the number of tokens."""
    if isinstance(found, list) and isinstance(wanted, list):
        return next((f for f, w in zip(found, wanted, strict=False) if f != w), otherwise)
    return otherwise
