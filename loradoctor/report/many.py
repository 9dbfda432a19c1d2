"""Reports of many adapters, written as they come: lines and a closing table for people, JSON lines for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from loradoctor import __version__
from loradoctor.diagnostic import Report, Severity
from loradoctor.report.card import size
from loradoctor.report.escape import jsonable, printable
from loradoctor.report.json_format import SCHEMA_VERSION, document
from loradoctor.report.palette import Palette

FAILED = "failed"
_VERDICTS = (FAILED, "error", "warning", "ok")
_ROLES = {FAILED: "error", "error": "error", "warning": "warning", "ok": "passed"}
_WIDTH = max(map(len, _VERDICTS))
_TOGETHER = 3
"""Findings of one rule that are printed for one adapter; the rest is counted."""


def verdict(report: Report) -> str:
    """``failed`` when the check did not complete, else the worst severity, ``ok`` when that is info or nothing."""
    if any(d.code == "LD002" for d in report.diagnostics):
        return FAILED
    return next((s.value for s in (Severity.ERROR, Severity.WARNING) if report.count(s)), "ok")


@dataclass(slots=True)
class Tally:
    """What remains of reports once they are written: numbers, and one example of each finding."""

    adapters: int = 0
    suppressed: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    rules: dict[str, tuple[str, Severity, str]] = field(default_factory=dict)
    affected: Counter[str] = field(default_factory=Counter)

    def add(self, path: str, report: Report) -> str:
        """Count one adapter; its verdict."""
        outcome = verdict(report)
        self.adapters += 1
        self.suppressed += report.suppressed
        self.verdicts[outcome] += 1
        self.findings.update(d.severity.value for d in report.diagnostics)
        for code in dict.fromkeys(d.code for d in report.diagnostics):
            self.affected[code] += 1
        for found in report.diagnostics:
            known = self.rules.get(found.code)
            if known is None or known[1].rank < found.severity.rank:
                self.rules[found.code] = (found.name, found.severity, path)
        return outcome

    def at_least(self, severity: Severity) -> bool:
        """Whether anything was found at or above ``severity``."""
        return any(self.findings[s.value] for s in Severity if s.rank >= severity.rank)


class Lines:
    """``--format text``: a line per adapter, its findings of at least severity ``show`` below it, one table at the end."""

    def __init__(self, show: Severity = Severity.WARNING, paint: Palette | None = None) -> None:
        self.show = show
        self.paint = paint or Palette()

    def one(self, path: str, report: Report, outcome: str) -> str:
        """What is written as soon as one adapter is done."""
        facts = report.subjects[0].facts if report.subjects else {}
        label = self.paint(_ROLES[outcome], outcome.ljust(_WIDTH))
        lines = [f"{label}  {self.paint('bold', printable(path))}  {self.paint('dim', _about(facts))}".rstrip()]
        repeated: Counter[str] = Counter()
        for found in report.at_least(self.show):
            repeated[found.code] += 1
            if repeated[found.code] <= _TOGETHER:
                where = f" ({printable(found.location.key)})" if found.location.key else ""
                severity = self.paint(found.severity.value, f"{found.severity.value}[{found.code}]")
                lines.append(f"{' ' * _WIDTH}  {severity} {printable(found.message)}{where}")
        more = sum(repeated.values()) - sum(min(n, _TOGETHER) for n in repeated.values())
        if more:
            lines.append(f"{' ' * _WIDTH}  and {more} more of the same")
        return "\n".join(lines) + "\n"

    def end(self, tally: Tally, seconds: float) -> str:
        """The closing table: which findings, in how many adapters, and where the first one is."""
        rows = [
            (code, name, severity.value, f"{tally.affected[code]:,}", printable(path))
            for code, (name, severity, path) in sorted(tally.rules.items(), key=lambda r: (-r[1][1].rank, -tally.affected[r[0]], r[0]))
            if severity.rank >= self.show.rank
        ]
        counts = ", ".join(f"{tally.verdicts[v]:,} {v}" for v in reversed(_VERDICTS) if tally.verdicts[v])
        aside = f" ({tally.suppressed:,} suppressed)" if tally.suppressed else ""
        plural = "" if tally.adapters == 1 else "s"
        closing = f"{tally.adapters:,} adapter{plural} in {seconds:.1f} s: {counts}{aside}\n"
        if not rows:
            return f"\n{closing}"
        return "\n" + self._table([("code", "name", "severity", "adapters", "for instance"), *rows]) + f"\n{closing}"

    def _table(self, rows: list[tuple[str, ...]]) -> str:
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = []
        for number, row in enumerate(rows):
            cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].ljust(widths[2]), row[3].rjust(widths[3]), row[4]]
            if number == 0:
                lines.append(self.paint("bold", "  ".join(cells)))
            else:
                cells[2] = self.paint(row[2], cells[2])
                lines.append("  ".join(cells))
        return "\n".join(lines) + "\n"


class JsonLines:
    """``--format jsonl``: an object per adapter on a line of its own, as in ``--format json``; the last one sums up."""

    def one(self, path: str, report: Report, outcome: str) -> str:
        """The line of one adapter."""
        whole = document(report)
        return _line({"version": SCHEMA_VERSION, "type": "adapter", "path": path, "verdict": outcome, **_without(whole, "version", "tool")})

    def end(self, tally: Tally, seconds: float) -> str:
        """The last line."""
        return _line(
            {
                "version": SCHEMA_VERSION,
                "type": "summary",
                "tool": {"name": "loradoctor", "version": __version__},
                "adapters": tally.adapters,
                "verdicts": {v: tally.verdicts[v] for v in _VERDICTS},
                "codes": {
                    code: {"name": tally.rules[code][0], "severity": tally.rules[code][1].value, "adapters": count}
                    for code, count in sorted(tally.affected.items())
                },
                "summary": {**{s.value: tally.findings[s.value] for s in Severity}, "suppressed": tally.suppressed},
                "seconds": round(seconds, 3),
            }
        )


def _without(whole: Mapping[str, object], *keys: str) -> dict[str, object]:
    return {k: v for k, v in whole.items() if k not in keys}


def _line(value: object) -> str:
    return json.dumps(jsonable(value), ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n"


def _about(facts: Mapping[str, object]) -> str:
    """Method, rank, how many modules and how large, on one line."""
    parts = [printable(str(facts["method"]), 40)] if facts.get("method") else []
    variants = facts.get("variants")
    if isinstance(variants, list):
        parts += [printable(str(v), 40) for v in variants]
    if isinstance(facts.get("r"), int):
        parts.append(f"r={facts['r']}")
    modules = facts.get("modules")
    if isinstance(modules, dict) and modules:
        parts.append(f"{sum(modules.values()):,} modules")
    if isinstance(facts.get("bytes"), int):
        parts.append(size(int(str(facts["bytes"]))))
    return ", ".join(parts)
