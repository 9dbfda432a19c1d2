"""LD528: a key stands in the config more than once."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.wording import evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD528", Severity.WARNING, "C9")
def duplicate_config_key(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A key stands in `adapter_config.json` more than once.

    Python's reader silently takes the last one, others the first: a `lora_alpha` edited at the top of the file may have no
    effect, or only in another program.

    Keep one of them.
    """
    if checkpoint.config is not None and (names := checkpoint.config.duplicates):
        yield checkpoint.finding(
            f"{listed(names)} {verb(len(names), 'stands', 'stand')} in the config more than once",
            names[0],
            of="config",
            help="PEFT takes the last one, other programs may take the first: keep one",
            data=evidence("duplicate-key", names),
        )
