"""``--format json``: one object with every field present; what does not apply is null."""

from __future__ import annotations

import json

from loradoctor import __version__
from loradoctor.diagnostic import Check, Diagnostic, Edit, Fix, Location, Report, Severity, Subject
from loradoctor.report.escape import jsonable

SCHEMA_VERSION = 1


def render(report: Report) -> str:
    """The report as one JSON document in ASCII, ending with a newline."""
    return json.dumps(jsonable(document(report)), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def document(report: Report) -> dict[str, object]:
    """The report as plain data."""
    return {
        "version": SCHEMA_VERSION,
        "tool": {"name": "loradoctor", "version": __version__},
        "subjects": [_subject(s) for s in report.subjects],
        "checks": [_check(c) for c in report.checks],
        "diagnostics": [_diagnostic(d) for d in report.diagnostics],
        "summary": {**{s.value: report.count(s) for s in Severity}, "suppressed": report.suppressed},
    }


def _subject(subject: Subject) -> dict[str, object]:
    return {**subject.facts, "path": subject.path, "kind": subject.kind}


def _check(check: Check) -> dict[str, object]:
    return {
        "subject": check.subject,
        "name": check.name,
        "status": check.status,
        "reason": check.reason or None,
        "measured": check.measured,
        "bound": check.bound,
        "effect": check.effect,
    }


def _diagnostic(diagnostic: Diagnostic) -> dict[str, object]:
    return {
        "code": diagnostic.code,
        "name": diagnostic.name,
        "severity": diagnostic.severity.value,
        "message": diagnostic.message,
        "help": diagnostic.help or None,
        "refs": list(diagnostic.refs),
        "subject": diagnostic.subject,
        "location": _location(diagnostic.location),
        "related": [{"message": r.message, "location": _location(r.location)} for r in diagnostic.related],
        "data": dict(diagnostic.data),
        "fix": _fix(diagnostic.fix, diagnostic.location.path) if diagnostic.fix else None,
    }


def _location(location: Location) -> dict[str, object]:
    span = location.span
    return {
        "path": location.path,
        "line": span.line if span else None,
        "column": span.column if span else None,
        "end_line": span.end_line if span else None,
        "end_column": span.end_column if span else None,
        "cell": location.cell,
        "key": location.key,
    }


def _fix(fix: Fix, path: str) -> dict[str, object]:
    return {"title": fix.title, "safe": fix.safe, "edits": [_edit(e, path) for e in fix.edits]}


def _edit(edit: Edit, path: str) -> dict[str, object]:
    return {"path": edit.path or path, "cell": edit.cell, "start": edit.start, "end": edit.end, "text": edit.text}
