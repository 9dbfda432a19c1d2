"""Where the nodes of a program stand: in libcst's tree, which keeps every character that was written.

CPython's tree says what a program does and is a tenth of the work; parentheses, comments and the inside of formatted strings are
not in it. So libcst reads a text when the first place in it is asked for, which is when there is something to report.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from loradoctor.lint import ir
from loradoctor.lint.depth import too_deep

Span = tuple[int, int]
_NEWLINE = re.compile(r"\r\n|\r|\n")


class Places:
    """The offsets, in characters, of the nodes of a program that was lowered from CPython's tree of ``text``."""

    def __init__(self, text: str, program: ir.Program) -> None:
        self.text = text
        self.starts = [0, *(m.end() for m in _NEWLINE.finditer(text))]
        self.exact = _exact(text, program)

    def span(self, node: ir.Node | ir.Arg) -> Span:
        """Where a node begins and ends, without surrounding whitespace and parentheses."""
        found = self.exact.get(_key(node))
        return self._near(node.ref) if found is None else found

    def _near(self, ref: Any) -> Span:
        """By CPython's account, for a text that libcst cannot read or reads as something else."""
        return self._offset(ref.lineno, ref.col_offset), self._offset(ref.end_lineno, ref.end_col_offset)

    def _offset(self, line: int, column: int) -> int:
        start = self.starts[line - 1]
        end = self.starts[line] if line < len(self.starts) else len(self.text)
        return start + len(self.text[start:end].encode(errors="surrogatepass")[:column].decode(errors="replace"))


def _exact(text: str, program: ir.Program) -> dict[int, Span]:
    """Where libcst sees the nodes of ``program``."""
    from loradoctor.lint import lower_cst
    from loradoctor.lint.lower import ParseError

    if too_deep(text) is not None:
        return {}
    try:
        tree = lower_cst.parse(text)
        twin = tree.lower()
    except (ParseError, RecursionError):
        return {}
    return {_key(ours): tree.span(theirs) for ours, theirs in _pairs(program.body, twin.body)} if tree.keeps(text) else {}


def _key(node: ir.Node | ir.Arg) -> int:
    """A number of its own; an argument has none, and its identity is far above those that nodes are given."""
    return node.uid if isinstance(node, ir.Node) else id(node)


def _pairs(ours: object, theirs: object) -> Iterator[tuple[ir.Node | ir.Arg, ir.Node | ir.Arg]]:
    """The same nodes of two lowered forms of one text, as far as these are alike."""
    pending = [(ours, theirs)]
    while pending:
        one, other = pending.pop()
        if isinstance(one, tuple) and isinstance(other, tuple):
            first, second = _nodes(one), _nodes(other)
            pending += zip(first, second, strict=True) if len(first) == len(second) else ()
        elif type(one) is type(other) and hasattr(one, "field_names"):
            if isinstance(one, (ir.Node, ir.Arg)):
                yield one, other  # type: ignore[misc]
            pending += [(getattr(one, name), getattr(other, name)) for name in one.field_names if name not in ("uid", "ref")]


def _nodes(parts: Iterable[object]) -> list[object]:
    return [p for p in parts if not isinstance(p, str)]
