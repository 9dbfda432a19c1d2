"""LD504: a tensor name stands in the header more than once."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD504", Severity.ERROR, "F3")
def duplicate_tensor_name(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A tensor name stands in the safetensors header more than once.

    Readers silently take one of the two (usually the last); another program may take the other. Which weights you get depends on
    the reader, and a scanner may look at different bytes than the model does.

    Save the adapter again from the model that you trust.
    """
    if names := checkpoint.repeated:
        yield checkpoint.finding(
            f"{counted(len(names), 'tensor name')} {verb(len(names), 'stands', 'stand')} in the header more than once: {listed(names)}",
            key=names[0],
            help="readers silently choose one of them: save the adapter again",
            data=evidence("duplicate-name", names),
        )
