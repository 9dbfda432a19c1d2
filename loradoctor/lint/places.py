"""Where the nodes of CPython's syntax tree stand in the text: lines and bytes → offsets in characters."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from loradoctor.lint.formatted import fields

_NEWLINE = re.compile(r"\r\n|\r|\n")
_EXACT = sys.version_info >= (3, 12)
"""Whether the interpreter knows where the expressions inside a formatted string stand."""


class Stretch:
    """From the start of one node to the end of another."""

    __slots__ = ("col_offset", "end_col_offset", "end_lineno", "lineno")

    def __init__(self, first: ast.expr, last: ast.expr) -> None:
        self.lineno, self.col_offset = first.lineno, first.col_offset
        self.end_lineno, self.end_col_offset = last.end_lineno, last.end_col_offset


class Argument:
    """A positional argument with the parentheses around it; ``call`` is what it is an argument of."""

    __slots__ = ("call", "node")

    def __init__(self, node: ast.expr, call: ast.AST) -> None:
        self.node = node
        self.call = call


def begins(node: ast.expr) -> tuple[int, int]:
    """The line and the byte in it where a node begins; only good for comparing."""
    return node.lineno, node.col_offset


class Places:
    """The offsets of nodes in ``text``; ``strings`` are the formatted strings in it, outer ones first."""

    def __init__(self, text: str, strings: Iterable[ast.JoinedStr]) -> None:
        self.text = text
        self.ascii = text.isascii()
        self.starts = [0, *(m.end() for m in _NEWLINE.finditer(text))]
        if not _EXACT:
            for string in strings:
                self._correct(string)

    def span(self, ref: Any) -> tuple[int, int]:
        """Where a node begins and ends."""
        if isinstance(ref, Argument):
            return self._argument(ref)
        return self._offset(ref.lineno, ref.col_offset), self._offset(ref.end_lineno, ref.end_col_offset)

    def _offset(self, line: int, column: int) -> int:
        start = self.starts[line - 1]
        if self.ascii:
            return start + column
        end = self.starts[line] if line < len(self.starts) else len(self.text)
        return start + len(self.text[start:end].encode()[:column].decode(errors="replace"))

    def _argument(self, ref: Argument) -> tuple[int, int]:
        start, end = self.span(ref.node)
        last = self.span(ref.call)[1]
        if end == last:  # a generator expression whose parentheses are those of the call
            return start + 1, end - 1
        while True:
            before = len(self.text[:start].rstrip()) - 1
            after = end + len(self.text[end:]) - len(self.text[end:].lstrip())
            if self.text[before : before + 1] != "(" or self.text[after : after + 1] != ")" or after >= last - 1:
                return start, end
            start, end = before, after + 1

    def _correct(self, string: ast.JoinedStr) -> None:
        """Give the nodes inside a formatted string their true places; until Python 3.12 the parser guesses them."""
        values = list(_values(string))
        found = fields(self.text, *self.span(string))
        for position, value in enumerate(values):
            offset, written = found[position] if len(found) == len(values) else (0, "")
            if not self._place(value.value, offset, written):
                for node in ast.walk(value):
                    if isinstance(node, ast.expr):
                        _copy(string, node)

    def _place(self, value: ast.expr, offset: int, written: str) -> bool:
        try:
            again = ast.parse(f"({written}\n)", mode="eval").body
        except SyntaxError:
            return False
        nodes = list(zip(ast.walk(value), ast.walk(again), strict=False))
        if ast.dump(value) != ast.dump(again):
            return False
        row = max(i for i, start in enumerate(self.starts) if start <= offset)
        column = len(self.text[self.starts[row] : offset].encode()) - 1
        for node, place in nodes:
            if isinstance(node, (ast.expr, ast.keyword)) and isinstance(place, (ast.expr, ast.keyword)):
                node.lineno, node.end_lineno = place.lineno + row, (place.end_lineno or place.lineno) + row
                node.col_offset = place.col_offset + (column if place.lineno == 1 else 0)
                node.end_col_offset = (place.end_col_offset or 0) + (column if place.end_lineno == 1 else 0)
        return True


def _values(string: ast.JoinedStr) -> Iterator[ast.FormattedValue]:
    for part in string.values:
        if isinstance(part, ast.FormattedValue):
            yield part
            if isinstance(part.format_spec, ast.JoinedStr):
                yield from _values(part.format_spec)


def _copy(source: ast.expr, target: ast.expr) -> None:
    target.lineno, target.col_offset = source.lineno, source.col_offset
    target.end_lineno, target.end_col_offset = source.end_lineno, source.end_col_offset
