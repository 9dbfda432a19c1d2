"""A rule: a code, a name, a severity, documentation that is also its first test, and a generator of findings."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from loradoctor.diagnostic import Finding, Severity

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Rule(Generic[S]):
    """One thing that can be wrong with a subject of type ``S`` (a module, a checkpoint, a live model)."""

    code: str
    name: str
    severity: Severity
    refs: tuple[str, ...]
    doc: str
    check: Callable[[S], Iterator[Finding]]

    @property
    def summary(self) -> str:
        """The first line of the documentation, without its full stop."""
        return self.doc.partition("\n")[0].rstrip(".")

    @property
    def examples(self) -> tuple[str, ...]:
        """The Python blocks of the documentation: the bug, then the same program right."""
        return tuple(re.findall(r"^```python\n(.*?)^```", self.doc, flags=re.DOTALL | re.MULTILINE))


def rule(code: str, severity: Severity, *refs: str, name: str = "") -> Callable[[Callable[[S], Iterator[Finding]]], Rule[S]]:
    """Make a rule of a generator function; its name becomes the rule's, its docstring the rule's documentation.

    ``refs`` are the ids of the evidence the rule rests on.
    """

    def decorate(check: Callable[[S], Iterator[Finding]]) -> Rule[S]:
        return Rule(
            code=code,
            name=name or check.__name__.replace("_", "-"),
            severity=severity,
            refs=refs,
            doc=_dedent(check.__doc__ or ""),
            check=check,
        )

    return decorate


def _dedent(doc: str) -> str:
    # inspect.cleandoc does the same, but importing inspect costs a tenth of a lint run.
    first, _, rest = doc.partition("\n")
    return f"{first.strip()}\n{textwrap.dedent(rest)}".strip()
