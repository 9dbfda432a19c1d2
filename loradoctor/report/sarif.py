"""``--format sarif``: SARIF 2.1.0, as code scanning services read it."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from loradoctor import __version__
from loradoctor.diagnostic import Diagnostic, Edit, Location, Report, Severity
from loradoctor.registry import all_rules
from loradoctor.report.escape import jsonable
from loradoctor.report.sources import Sources
from loradoctor.rule import Rule

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_FINGERPRINT = "loradoctor/v1"


def render(report: Report) -> str:
    """The report as one SARIF log, ending with a newline."""
    return json.dumps(jsonable(log(report)), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def log(report: Report) -> dict[str, object]:
    """The report as the plain data of a SARIF log with one run."""
    rules = all_rules()
    index = {r.code: i for i, r in enumerate(rules)}
    sources = Sources()
    fingerprints = _Fingerprints(sources)
    crashed = any(d.code == "LD002" for d in report.diagnostics)
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "loradoctor",
                        "version": __version__,
                        "semanticVersion": __version__,
                        "rules": [_rule(r) for r in rules],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "invocations": [{"executionSuccessful": not crashed}],
                "results": [_result(d, index, fingerprints, sources) for d in report.diagnostics],
                "properties": {"suppressed": report.suppressed},
            }
        ],
    }


def _rule(rule: Rule[Any]) -> dict[str, object]:
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.summary},
        "help": {"text": rule.doc, "markdown": rule.doc},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"tags": ["peft", *rule.refs]},
    }


def _result(diagnostic: Diagnostic, index: dict[str, int], fingerprints: _Fingerprints, sources: Sources) -> dict[str, object]:
    text = diagnostic.message if not diagnostic.help else f"{diagnostic.message}\n\n{diagnostic.help}"
    result: dict[str, object] = {
        "ruleId": diagnostic.code,
        "level": _LEVELS[diagnostic.severity],
        "message": {"text": text},
        "locations": [_location(diagnostic.location, sources)],
        "partialFingerprints": {_FINGERPRINT: fingerprints.of(diagnostic)},
        "properties": {"name": diagnostic.name, "subject": diagnostic.subject, "data": dict(diagnostic.data)},
    }
    if diagnostic.code in index:
        result["ruleIndex"] = index[diagnostic.code]
    if diagnostic.related:
        result["relatedLocations"] = [
            {"id": i, "message": {"text": r.message}, **_location(r.location, sources)} for i, r in enumerate(diagnostic.related, start=1)
        ]
    if diagnostic.fix and all(e.cell is None for e in diagnostic.fix.edits):
        # Offsets of a notebook edit count in the cell, and SARIF has no place for a cell.
        result["fixes"] = [
            {
                "description": {"text": diagnostic.fix.title},
                "artifactChanges": _changes(diagnostic.fix.edits, diagnostic.location.path),
            }
        ]
    return result


def _location(location: Location, sources: Sources) -> dict[str, object]:
    physical: dict[str, object] = {"artifactLocation": _artifact(location.path)}
    found: dict[str, object] = {"physicalLocation": physical}
    span = location.span
    if location.cell is not None:
        line = f", line {span.line}" if span else ""
        found["logicalLocations"] = [{"fullyQualifiedName": f"cell {location.cell}{line}", "kind": "module"}]
        if (number := sources.file_line(location)) is not None:
            physical["region"] = {"startLine": number}
    elif span:
        physical["region"] = {
            "startLine": span.line,
            "startColumn": span.column,
            "endLine": span.end_line,
            "endColumn": span.end_column,
        }
    if location.key:
        found["logicalLocations"] = [{"fullyQualifiedName": location.key, "kind": "member"}]
    return found


def _artifact(path: str) -> dict[str, object]:
    slashed = path.replace("\\", "/")
    if slashed.startswith("/"):
        return {"uri": "file://" + quote(slashed, errors="surrogateescape")}
    return {"uri": quote(slashed, errors="surrogateescape"), "uriBaseId": "%SRCROOT%"}


def _changes(edits: tuple[Edit, ...], path: str) -> list[dict[str, object]]:
    changes: dict[str, list[dict[str, object]]] = {}
    for edit in edits:
        changes.setdefault(edit.path or path, []).append(
            {
                "deletedRegion": {"byteOffset": edit.start, "byteLength": edit.end - edit.start},
                "insertedContent": {"text": edit.text},
            }
        )
    return [{"artifactLocation": _artifact(name), "replacements": replacements} for name, replacements in changes.items()]


class _Fingerprints:
    """Digests that stay the same when lines move: the rule, the file, the text of the line, and which of equals it is."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._seen: Counter[str] = Counter()

    def of(self, diagnostic: Diagnostic) -> str:
        location = diagnostic.location
        line = self._sources.line(location) or ""
        identity = "\0".join((diagnostic.code, location.path, location.key or "", line.strip()))
        self._seen[identity] += 1
        return sha256(f"{identity}\0{self._seen[identity]}".encode("utf-8", "backslashreplace")).hexdigest()[:32]
