"""One file of a lint run: bytes → source → module → rules → suppressions → report."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from loradoctor.config import Settings
from loradoctor.diagnostic import Diagnostic, Finding, Location, Report, Severity, Span, Subject
from loradoctor.engine import run as run_rules
from loradoctor.engine import stamp
from loradoctor.limit import processor_time
from loradoctor.lint import files
from loradoctor.rule import Rule
from loradoctor.self_report import check_did_not_complete, unparsable_source, unreadable_file

if TYPE_CHECKING:
    from loradoctor.lint.source import Source, SourceError

# Analysis is bounded, so this only ends what was never meant to be: seconds for one file.
TIME_LIMIT = 60

_NOT_CHECKED = frozenset({unparsable_source.code, check_did_not_complete.code, unreadable_file.code})

Analyse = Callable[["Source"], Any]


@dataclass(frozen=True)
class Outcome:
    """The report on one file, None when no rule could have anything to say about it.

    ``consulted`` are the other paths that it rests on; it ``lasts`` while the file and those stay as they are.
    """

    report: Report | None
    consulted: frozenset[str] = frozenset()
    lasts: bool = True


@dataclass(frozen=True)
class Pipeline:
    """How one file is turned into diagnostics; the parts can be replaced by stand-ins."""

    settings: Settings = field(default_factory=Settings)
    analyse: Analyse | None = None
    rules: tuple[Rule[Any], ...] | None = None

    def file(self, path: str) -> Report | None:
        """The report on one file; None when no rule could have anything to say about it."""
        return self.outcome(path).report

    def data(self, path: str, data: bytes) -> Report | None:
        """The report on a file with these bytes; None when no rule could have anything to say about it."""
        return self.examine(path, data) if files.relevant(data) else None

    def examine(self, path: str, data: bytes) -> Report:
        """The report on a file with these bytes."""
        report = self.examined(path, data).report
        return Report() if report is None else report

    def outcome(self, path: str) -> Outcome:
        """What there is to say about one file, and what that rests on."""
        try:
            data = files.read(path)
        except (OSError, ValueError) as error:
            return Outcome(Report().with_diagnostics(self.kept(path, [unreadable(path, files.reason(error))])), lasts=False)
        return self.examined(path, data) if files.relevant(data) else Outcome(None)

    def examined(self, path: str, data: bytes) -> Outcome:
        """What there is to say about a file with these bytes, and what that rests on."""
        from loradoctor.lint.source import Source, SourceError

        try:
            source = Source.from_bytes(path, data)
        except SourceError as error:
            return Outcome(Report().with_diagnostics(self.kept(path, [_source_error(path, error)])))
        try:
            with processor_time(TIME_LIMIT):
                source, module, broken = self._module(source)
                found = run_rules(self._rules(), module, path) if module is not None else []
                found = [d for d in found if d.location.path == path]  # the rest is that other file's to report
                if getattr(module, "is_test", False):
                    found = [_as_information(d) for d in found]
        except Exception as error:  # noqa: BLE001 -- one file that cannot be analysed must not end the run
            return Outcome(Report().with_diagnostics(self.kept(path, [_failure(source, error)])), lasts=False)
        errors = [_source_error(path, e, "block" if source.kind == "markdown" else "") for e in broken]
        if source.kind == "markdown":  # nobody promised that every block of a tutorial is a program
            errors = [replace(e, severity=Severity.INFO) for e in errors]
        report = self._report(source, errors, found, analysed=module is not None)
        failed = any(d.code == check_did_not_complete.code for d in found)
        outcome = Outcome(report, getattr(module, "consulted", frozenset()), lasts=not failed)
        if close := getattr(module, "close", None):
            close()
        return outcome

    def _report(self, source: Source, broken: list[Diagnostic], found: list[Diagnostic], analysed: bool) -> Report:
        kept, silenced = [*broken, *found], 0
        if "loradoctor" in source.text:
            from loradoctor.lint import suppress

            ignored = files.ignored_codes(source.path, self.settings)
            kept, silenced = suppress.apply(source, kept, lambda code: self.settings.enabled(code) and code not in ignored)
        subjects = (Subject(source.path, source.kind),) if analysed else ()
        return Report(subjects=subjects).with_diagnostics(self.kept(source.path, kept), silenced)

    def _module(self, source: Source) -> tuple[Source, Any, list[SourceError]]:
        """The analysed module, None when the file does not parse; and the parse errors, for a notebook by cell."""
        from loradoctor.lint.lower import ParseError
        from loradoctor.lint.source import SourceError

        analyse = self.analyse or partial(_analyse, targets=self.settings.target_versions)
        try:
            return source, analyse(source), []
        except ParseError as error:
            if not source.cells:
                return source, None, [SourceError(error.message, error.line, error.column)]
        source, broken = source.without_broken_cells()
        # Cells can parse one by one and not together: one that ends in a backslash, say. Each round blanks one of them.
        for _ in source.cells:
            try:
                return source, analyse(source), broken
            except ParseError as error:
                offset = source.offset(error.line, error.column)
                place = source.location(offset, offset)
                if place.cell is None or place.span is None or place.cell in {e.cell for e in broken}:
                    break
                broken.append(SourceError(error.message, place.span.line, place.span.column, place.cell))
                source = source.without_cell(place.cell)
        return source, None, broken

    def _rules(self) -> tuple[Rule[Any], ...]:
        from loradoctor import registry

        rules = registry.family("lint") if self.rules is None else self.rules
        return tuple(rule for rule in rules if self.settings.enabled(rule.code))

    def kept(self, path: str, found: Iterable[Diagnostic]) -> list[Diagnostic]:
        """What the settings let through of what was found in one file.

        A selection of rules says what to look for; that a file was not looked at is told unless it is ignored by its code.
        """
        ignored = self.settings.ignore | files.ignored_codes(path, self.settings)
        return [d for d in found if d.code not in ignored and (d.code in _NOT_CHECKED or self.settings.enabled(d.code))]


def _analyse(source: Source, targets: Mapping[str, str]) -> object:
    from loradoctor.lint.artifacts import recent

    return recent.analysed(source, targets)


def _as_information(diagnostic: Diagnostic) -> Diagnostic:
    """A warning about test code is worth knowing, no more: tests provoke on purpose what they check."""
    return replace(diagnostic, severity=Severity.INFO) if diagnostic.severity is Severity.WARNING else diagnostic


def unreadable(path: str, reason: str) -> Diagnostic:
    """The diagnostic for a path that cannot be read."""
    finding = Finding(f"the file cannot be read: {reason}", Location(path), help="nothing in it was checked")
    return stamp(unreadable_file, finding, path)


def _source_error(path: str, error: SourceError, part: str = "") -> Diagnostic:
    if error.code == unreadable_file.code:
        place = Location(path, _point(error))
        return stamp(unreadable_file, Finding(f"the file cannot be read: {error.message}", place, help="nothing in it was checked"), path)
    # The parser counts lines in the text it was given, which is not always the file.
    reason = re.sub(r"^error at \d+:\d+: ", "", error.message)
    part = part or ("file" if error.cell is None else "cell")
    finding = Finding(
        f"the {part} does not parse: {reason}",
        Location(path, _point(error), error.cell),
        help="nothing in it was checked" if part == "file" else f"this {part} was not checked, the others were",
    )
    return stamp(unparsable_source, finding, path)


def _point(error: SourceError) -> Span | None:
    return None if error.line is None else Span(error.line, error.column, error.line, error.column + 1)


def _failure(source: Source, error: Exception) -> Diagnostic:
    reason, place = f"{type(error).__name__}: {error}", Location(source.path)
    if isinstance(error, RecursionError):
        from loradoctor.lint.depth import deepest

        offset = source.offset(deepest(source.text), 1)
        reason, place = "its code is nested too deeply", source.location(offset, offset)
    finding = Finding(
        f"the file could not be analysed: {reason}",
        place,
        help="nothing in it was checked; please report this with the file that caused it",
        data={"exception": type(error).__name__},
    )
    return stamp(check_did_not_complete, finding, source.path)
