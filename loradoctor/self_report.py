"""LD0xx: what loradoctor says about its own run. No subject has these; the parts of the tool raise them where they happen."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD001", Severity.ERROR)
def unparsable_source(_: object) -> Iterator[Finding]:
    """A source file, a notebook cell or a code block does not parse.

    Nothing in it was checked. Python 2 code, a merge conflict, a half-written cell or a notebook that is not JSON are the
    usual reasons. The finding names the place where the parser gave up.
    """
    yield from ()


@rule("LD002", Severity.ERROR)
def check_did_not_complete(_: object) -> Iterator[Finding]:
    """A check did not complete.

    A rule failed, the torch side crashed or ran out of time, or an input changed while it was read. What was not checked is
    not reported as passed: the exit code is 2.
    """
    yield from ()


@rule("LD003", Severity.WARNING)
def unused_suppression(_: object) -> Iterator[Finding]:
    """A `# loradoctor: ignore[...]` comment silences nothing.

    The finding it was written for is gone, or the code in the brackets is misspelled. Remove the comment, so that it does
    not hide the next bug on that line.
    """
    yield from ()


@rule("LD004", Severity.ERROR)
def unreadable_file(_: object) -> Iterator[Finding]:
    """A file cannot be read.

    It is missing, permission is denied, it is not text in the encoding it declares, or it is something other than a file.
    Nothing in it was checked.
    """
    yield from ()
