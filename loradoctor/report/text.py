"""``--format text``: what a person reads."""

from __future__ import annotations

from loradoctor.diagnostic import Diagnostic, Location, Report, Severity
from loradoctor.report.escape import printable
from loradoctor.report.palette import Palette
from loradoctor.report.sources import Sources

SOURCE_KINDS = frozenset({"module", "notebook", "markdown"})
"""Subjects that are shown by their findings alone; any other has a card."""


class Text:
    """Renders reports: findings of at least severity ``show``, source lines from ``sources``, colours by ``paint``."""

    def __init__(self, show: Severity = Severity.WARNING, paint: Palette | None = None, sources: Sources | None = None) -> None:
        self.show = show
        self.paint = paint or Palette()
        self.sources = sources or Sources()

    def render(self, report: Report) -> str:
        """Cards, findings and a closing line that sums them up."""
        blocks: list[str] = []
        shown = report.at_least(self.show)
        explained: set[str] = set()
        carded = [s for s in report.subjects if s.kind not in SOURCE_KINDS]
        paths = {s.path for s in carded}
        for subject in carded:
            from loradoctor.report.card import card

            checks = [c for c in report.checks if c.subject == subject.path]
            blocks.append("\n".join(card(subject, checks, self.paint, detailed=self.show is Severity.INFO)))
            blocks += [self.finding(d, explained) for d in shown if d.subject == subject.path]
        blocks += [self.finding(d, explained) for d in shown if d.subject not in paths]
        return "\n\n".join([*blocks, self.summary(report)]) + "\n"

    def finding(self, diagnostic: Diagnostic, explained: set[str]) -> str:
        """One diagnostic; the pointer to its documentation only where ``explained`` lacks its code, which is added."""
        role = diagnostic.severity.value
        paint, gutter = self.paint, _gutter(diagnostic)
        head = f"{paint(role, f'{role}[{diagnostic.code}]')}: {paint('bold', printable(diagnostic.message))}"
        lines = [head, f"{' ' * gutter}{paint('gutter', '-->')} {place(diagnostic.location)}"]
        lines += self._excerpt(diagnostic, gutter, role)
        notes = self._notes(diagnostic, explained)
        lines += [f"{' ' * gutter} {paint('gutter', '=')} {paint('bold', label)}: {text}" for label, text in notes]
        return "\n".join(lines)

    def _excerpt(self, diagnostic: Diagnostic, gutter: int, role: str) -> list[str]:
        from loradoctor.report.snippet import Mark, snippet

        here = diagnostic.location
        marks = [Mark(here.span, primary=True)] if here.span else []
        elsewhere: dict[Location, list[Mark]] = {}
        lines: list[str] = []
        for related in diagnostic.related:
            span = related.location.span
            if span and _same_text(related.location, here):
                marks.append(Mark(span, related.message))
            elif span:
                elsewhere.setdefault(related.location, []).append(Mark(span, related.message))
        lines += snippet(self.sources.lines(here), marks, gutter, self.paint, role) if marks else []
        for location, others in elsewhere.items():
            excerpt = snippet(self.sources.lines(location), others, gutter, self.paint, role)
            label = "" if excerpt else f" {printable(others[0].label)}"
            lines.append(f"{' ' * gutter}{self.paint('gutter', ':::')} {place(location)}{label}")
            lines += excerpt
        return lines

    def _notes(self, diagnostic: Diagnostic, explained: set[str]) -> list[tuple[str, str]]:
        notes = [("key", printable(diagnostic.location.key))] if diagnostic.location.key else []
        notes += [
            ("note", f"{printable(r.message)}: {place(r.location)}{_key(r.location)}") for r in diagnostic.related if not r.location.span
        ]
        if diagnostic.help:
            notes.append(("help", printable(diagnostic.help)))
        if diagnostic.fix:
            flag = "--fix" if diagnostic.fix.safe else "--unsafe-fixes"
            notes.append(("fix", f"{printable(diagnostic.fix.title)} (`{flag}` does it)"))
        if diagnostic.code not in explained:
            explained.add(diagnostic.code)
            notes.append(("explain", f"loradoctor explain {diagnostic.code}"))
        return notes

    def summary(self, report: Report) -> str:
        """How many findings of each severity in how many subjects, and what is not shown."""
        counts = [_count(report.count(s), s.value) for s in Severity if report.count(s) and s.rank >= self.show.rank]
        where = _where(report)
        asides = []
        if fixable := sum(bool(d.fix and d.fix.safe) for d in report.diagnostics):
            asides.append(f"{fixable} fixable with `--fix`")
        if report.suppressed:
            asides.append(f"{report.suppressed} suppressed")
        if hidden := len(report.diagnostics) - len(report.at_least(self.show)):
            asides.append(f"{hidden} of lower severity hidden, `--verbose` shows them")
        worst = next((s.value for s in Severity if report.count(s)), "passed")
        found = self.paint(worst if counts else "passed", ", ".join(counts) or "no findings")
        return found + where + (f" ({'; '.join(asides)})" if asides else "")


def place(location: Location) -> str:
    """``train.py:41:13``, ``run.ipynb:cell 4:2:1`` or just the path."""
    cell = "" if location.cell is None else f":cell {location.cell}"
    span = f":{location.span.line}:{location.span.column}" if location.span else ""
    return f"{printable(location.path)}{cell}{span}"


def _key(location: Location) -> str:
    return f" `{printable(location.key)}`" if location.key else ""


def _same_text(one: Location, other: Location) -> bool:
    return (one.path, one.cell) == (other.path, other.cell)


def _gutter(diagnostic: Diagnostic) -> int:
    places = [diagnostic.location, *(r.location for r in diagnostic.related)]
    return max((len(str(p.span.end_line)) for p in places if p.span), default=1)


def _count(number: int, noun: str) -> str:
    plural = noun if number == 1 or noun == "info" else f"{noun}s"
    return f"{number} {plural}"


def _where(report: Report) -> str:
    others = {s.path for s in report.subjects if s.kind not in SOURCE_KINDS}
    # A file that does not parse is no subject, but it was looked at.
    sources = {s.path for s in report.subjects} | {d.subject for d in report.diagnostics}
    named = [_count(n, noun) for n, noun in ((len(sources - others), "file"), (len(others), "checkpoint")) if n]
    if named:
        return f" in {' and '.join(named)}"
    return "" if report.diagnostics else ": no code here uses PEFT"
