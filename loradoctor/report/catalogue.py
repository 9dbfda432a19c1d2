"""The rules themselves as text: ``loradoctor rules`` and ``loradoctor explain``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from loradoctor.registry import FAMILIES, family
from loradoctor.rule import Rule

COLUMNS = ("code", "name", "severity", "what it finds")


def rows(rules: Iterable[Rule[Any]]) -> list[tuple[str, str, str, str]]:
    """A row of :data:`COLUMNS` for each rule."""
    return [(r.code, r.name, r.severity.value, r.summary) for r in rules]


def table(rules: Iterable[Rule[Any]]) -> str:
    """The rules as aligned plain text."""
    listed = [COLUMNS, *rows(rules)]
    widths = [max(len(row[i]) for row in listed) for i in range(len(COLUMNS) - 1)]
    lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in listed]
    return "\n".join(lines) + "\n"


def markdown_table(rules: Iterable[Rule[Any]]) -> str:
    """The rules as a Markdown table, as the README shows them."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    lines += [f"| {code} | `{name}` | {severity} | {_cell(what)} |" for code, name, severity, what in rows(rules)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def records() -> list[dict[str, object]]:
    """The rules as plain data, in the order of their codes."""
    listed: list[dict[str, object]] = [
        {
            "code": r.code,
            "name": r.name,
            "severity": r.severity.value,
            "family": group,
            "summary": r.summary,
            "refs": list(r.refs),
        }
        for group in FAMILIES
        for r in family(group)
    ]
    return sorted(listed, key=lambda row: str(row["code"]))


def page(rule: Rule[Any]) -> str:
    """The documentation of one rule as Markdown."""
    summary, _, rest = rule.doc.partition("\n")
    return f"# {rule.code} {rule.name} ({rule.severity.value})\n\n{summary}\n{rest.rstrip()}\n"
