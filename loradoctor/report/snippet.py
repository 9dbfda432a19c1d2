"""Source lines with what is wrong underlined, in the manner of rustc."""

from __future__ import annotations

from dataclasses import dataclass

from loradoctor.diagnostic import Span
from loradoctor.report.escape import printable
from loradoctor.report.palette import Palette

_TAB = " " * 4
_WIDTH = 160
"""Longest source line shown whole, in terminal columns; a minified or generated line is cut around what is marked."""
_LEAD = 24
"""Columns kept to the left of the first mark of a line that is cut."""
_WHOLE_SPAN = 4
"""A span of more lines than this is shown by its first and its last."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A span to underline, with ``^`` for the finding itself and ``-`` for what it is related to."""

    span: Span
    label: str = ""
    primary: bool = False


@dataclass(frozen=True, slots=True)
class _Underline:
    start: int
    end: int
    mark: Mark
    last: bool
    """Whether this is where the mark ends, and so where its label goes."""


def snippet(lines: list[str], marks: list[Mark], gutter: int, paint: Palette, role: str) -> list[str]:
    """The marked ones of ``lines`` with their underlines; the primary one in the colour of ``role``."""
    underlines: dict[int, list[_Underline]] = {}
    cuts: set[int] = set()
    for mark in marks:
        _spread(lines, mark, underlines, cuts)
    bar = paint("gutter", f"{' ' * gutter} |")
    shown = [bar] if underlines else []
    for number in sorted(underlines):
        cells = _Cells(lines[number - 1], min(u.start for u in underlines[number]))
        shown.append(f"{paint('gutter', f'{number:>{gutter}} |')} {cells.text}".rstrip())
        for underline in sorted(underlines[number], key=lambda u: -u.start):
            start, width = cells.extent(underline.start, underline.end)
            symbol = "^" if underline.mark.primary else "-"
            label = f" {printable(underline.mark.label)}" if underline.last and underline.mark.label else ""
            colour = role if underline.mark.primary else "gutter"
            shown.append(f"{bar} {' ' * start}{paint(colour, symbol * width + label)}")
        if number in cuts:
            shown.append(paint("gutter", f"{'.' * max(3, gutter)}"))
    return shown


def _spread(lines: list[str], mark: Mark, underlines: dict[int, list[_Underline]], cuts: set[int]) -> None:
    first, last = mark.span.line, min(mark.span.end_line, len(lines))
    numbers = list(range(first, last + 1)) if last - first < _WHOLE_SPAN else [first, last]
    if len(numbers) == 2 and last - first > 1:
        cuts.add(first)
    for number in numbers:
        if not 0 < number <= len(lines):
            continue
        line = lines[number - 1]
        start = mark.span.column - 1 if number == first else len(line) - len(line.lstrip())
        end = mark.span.end_column - 1 if number == mark.span.end_line else len(line.rstrip())
        underlines.setdefault(number, []).append(_Underline(start, max(end, start + 1), mark, number == last))


class _Cells:
    """One source line as it looks on a terminal, and where its characters land."""

    def __init__(self, line: str, keep: int) -> None:
        shown = [_TAB if c == "\t" else c if c.isprintable() else printable(c) for c in line.rstrip()]
        widths = [_width(s) for s in shown]
        first, last = 0, len(shown)
        if sum(widths) > _WIDTH:
            first = max(0, min(keep, len(shown)) - _LEAD) if sum(widths[:keep]) > _WIDTH - _LEAD else 0
            total, last = 0, first
            while last < len(shown) and total + widths[last] <= _WIDTH:
                total += widths[last]
                last += 1
        before, after = "…" if first else "", "…" if last < len(shown) else ""
        self.text = before + "".join(shown[first:last]) + after
        self._first, self._widths, self._offset = first, widths[first:last], len(before)

    def extent(self, start: int, end: int) -> tuple[int, int]:
        """Terminal column and width of the characters from ``start`` to ``end``."""
        begin = max(0, start - self._first)
        left = sum(self._widths[:begin]) + max(0, begin - len(self._widths))
        width = sum(self._widths[begin : max(0, end - self._first)])
        return self._offset + left, max(1, width)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
