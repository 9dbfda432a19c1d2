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
    message is PEFT's own.

    The usual reasons are a config value that the installed version does not know, an initialisation that needs data at load, or
    a library that the method needs. Load the adapter with the PEFT that wrote it, or correct what the message names.
    """
    misfit = diagnose(checkpoint)
    if misfit is None or checkpoint.evidence is None or checkpoint.evidence.loads is None:
        return
    base = checkpoint.evidence.loads.class_name
    if misfit.kind == "raises":
        yield checkpoint.finding(
            f"PEFT cannot load the adapter onto `{base}`: {misfit.detail['error']}",
            of="directory",
            help="nothing is loaded; `loradoctor explain LD617` lists the usual reasons",
            data=data(misfit),
        )
