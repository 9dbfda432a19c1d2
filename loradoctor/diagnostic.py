"""The vocabulary every part of loradoctor speaks: findings, diagnostics, reports. Plain data, standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum


class Severity(str, Enum):  # noqa: UP042 -- other programs rely on these bases
    """How bad a finding is; compare with :attr:`rank`."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """2 for an error, 1 for a warning, 0 for info."""
        return {"error": 2, "warning": 1, "info": 0}[self.value]

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A stretch of text: lines and columns from 1, columns in characters, ``end_column`` exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True, slots=True)
class Location:
    """A place: a file, and in it a span of text (``cell`` from 0 in a notebook) or a tensor or config ``key``."""

    path: str
    span: Span | None = None
    cell: int | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Related:
    """Another place that a finding is about, with what happens there."""

    message: str
    location: Location


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace bytes ``start`` to ``end`` of the file (of the cell's source, when ``cell`` is set) by ``text``."""

    start: int
    end: int
    text: str
    path: str = ""
    cell: int | None = None


@dataclass(frozen=True, slots=True)
class Fix:
    """What repairs a finding; ``safe`` when the program keeps its meaning otherwise."""

    title: str
    edits: tuple[Edit, ...]
    safe: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule yields. ``severity`` overrides the rule's own where the rule has two."""

    message: str
    location: Location
    help: str = ""
    severity: Severity | None = None
    related: tuple[Related, ...] = ()
    data: Mapping[str, object] = field(default_factory=dict)
    fix: Fix | None = None


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """A finding stamped by the engine with its rule and subject."""

    code: str
    name: str
    severity: Severity
    message: str
    location: Location
    subject: str
    help: str = ""
    refs: tuple[str, ...] = ()
    related: tuple[Related, ...] = ()
    data: Mapping[str, object] = field(default_factory=dict)
    fix: Fix | None = None

    @property
    def sort_key(self) -> tuple[str, int, int, int, str, str]:
        """Path, cell, line, column, code: the order of every report."""
        span = self.location.span
        line, column = (span.line, span.column) if span else (0, 0)
        cell = -1 if self.location.cell is None else self.location.cell
        return (self.location.path, cell, line, column, self.code, self.location.key or "")


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, so that "nothing found" and "nothing done" differ.

    ``status`` is ``passed``, ``failed``, ``not-run`` or ``vacuous``; ``measured``, ``bound`` and ``effect`` are numbers in
    the unit that ``reason`` names, or None.
    """

    subject: str
    name: str
    status: str
    reason: str = ""
    measured: float | None = None
    bound: float | None = None
    effect: float | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing that was examined, and the facts read from it."""

    path: str
    kind: str
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one run: what was examined, what was checked, what was found."""

    subjects: tuple[Subject, ...] = ()
    checks: tuple[Check, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    suppressed: int = 0

    def count(self, severity: Severity) -> int:
        """How many diagnostics have exactly this severity."""
        return sum(d.severity is severity for d in self.diagnostics)

    def at_least(self, severity: Severity) -> tuple[Diagnostic, ...]:
        """The diagnostics at or above ``severity``."""
        return tuple(d for d in self.diagnostics if d.severity.rank >= severity.rank)

    @classmethod
    def join(cls, reports: Iterable[Report]) -> Report:
        """One report out of several, diagnostics in report order."""
        parts = tuple(reports)
        return cls(
            subjects=tuple(s for r in parts for s in r.subjects),
            checks=tuple(c for r in parts for c in r.checks),
            diagnostics=tuple(sorted((d for r in parts for d in r.diagnostics), key=lambda d: d.sort_key)),
            suppressed=sum(r.suppressed for r in parts),
        )

    def with_diagnostics(self, diagnostics: Iterable[Diagnostic], suppressed: int = 0) -> Report:
        """This report with other diagnostics, sorted, and ``suppressed`` more counted as silenced."""
        ordered = tuple(sorted(diagnostics, key=lambda d: d.sort_key))
        return replace(self, diagnostics=ordered, suppressed=self.suppressed + suppressed)
