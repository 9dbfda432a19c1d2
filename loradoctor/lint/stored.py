"""Reports as JSON and back: the same report, or none."""

from __future__ import annotations

from typing import Any

from loradoctor.diagnostic import Diagnostic, Edit, Fix, Location, Related, Report, Severity, Span, Subject


def encoded(report: Report, path: str) -> list[Any]:
    """A report on ``path`` as plain lists. Raises ``ValueError`` when it would not come back as it is."""
    plain = [
        [[s.path, s.kind] for s in report.subjects],
        [_diagnostic(d) for d in report.diagnostics],
        report.suppressed,
    ]
    if decoded(plain, path) != report:
        raise ValueError("the report holds what lists cannot")
    return plain


def decoded(plain: Any, path: str) -> Report:
    """The report that :func:`encoded` was given. Raises ``ValueError``, ``TypeError`` or ``IndexError`` for anything else."""
    subjects, diagnostics, suppressed = plain
    report = Report(
        subjects=tuple([Subject(_text(p), _text(kind)) for p, kind in subjects]),
        diagnostics=tuple([_back(d) for d in diagnostics]),
        suppressed=int(suppressed),
    )
    if any(d.location.path != path for d in report.diagnostics) or any(s.path != path for s in report.subjects):
        raise ValueError("the report is about another file")
    return report


def _diagnostic(d: Diagnostic) -> list[Any]:
    return [
        d.code,
        d.name,
        d.severity.value,
        d.message,
        _location(d.location),
        d.subject,
        d.help,
        list(d.refs),
        [[r.message, _location(r.location)] for r in d.related],
        dict(d.data),
        None if d.fix is None else [d.fix.title, [[e.start, e.end, e.text, e.path, e.cell] for e in d.fix.edits], d.fix.safe],
    ]


def _location(place: Location) -> list[Any]:
    span = place.span
    return [place.path, None if span is None else [span.line, span.column, span.end_line, span.end_column], place.cell, place.key]


def _back(plain: Any) -> Diagnostic:
    code, name, severity, message, location, subject, advice, refs, related, data, fix = plain
    return Diagnostic(
        _text(code),
        _text(name),
        Severity(severity),
        _text(message),
        _place(location),
        _text(subject),
        _text(advice),
        tuple([_text(ref) for ref in refs]),
        tuple([Related(_text(story), _place(place)) for story, place in related]),
        dict(data),
        None if fix is None else _fix(*fix),
    )


def _place(plain: Any) -> Location:
    path, span, cell, key = plain
    return Location(_text(path), None if span is None else Span(*map(int, span)), _number(cell), None if key is None else _text(key))


def _fix(title: Any, edits: Any, safe: Any) -> Fix:
    made = [Edit(int(start), int(end), _text(text), _text(path), _number(cell)) for start, end, text, path, cell in edits]
    return Fix(_text(title), tuple(made), bool(safe))


def _number(plain: Any) -> int | None:
    return None if plain is None else int(plain)


def _text(plain: Any) -> str:
    if not isinstance(plain, str):
        raise TypeError("not a text")
    return plain
