"""Where the nodes of a program stand: in libcst's tree, which keeps every character that was written.

CPython's tree says what a program does and is a tenth of the work; parentheses, comments and the inside of formatted strings are
not in it. Where none of these can make a difference the two agree, node by node, in all public code that was compared; so libcst
reads a text when a place is asked for at which they may not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from loradoctor.lint import ir
from loradoctor.lint.depth import too_deep

Span = tuple[int, int]
_NEWLINE = re.compile(r"\r\n|\r|\n")


class Places:
    """The offsets, in characters, of the nodes of a program that was lowered from CPython's tree of ``text``."""

    def __init__(self, text: str, program: ir.Program) -> None:
        self.text = text
        self.program = program
        self.starts = [0, *(m.end() for m in _NEWLINE.finditer(text))]

    @cached_property
    def exact(self) -> dict[int, Span]:
        """Where libcst sees the nodes."""
        return _exact(self.text, self.program)

    def span(self, node: ir.Node | ir.Arg) -> Span:
        """Where a node begins and ends, without surrounding whitespace and parentheses."""
        if self._is_told(node):
            return self._near(node.ref)
        found = self.exact.get(_key(node))
        return self._near(node.ref) if found is None else found

    def _near(self, ref: Any) -> Span:
        """By CPython's account."""
        return self._offset(ref.lineno, ref.col_offset), self._offset(ref.end_lineno, ref.end_col_offset)

    def _is_told(self, node: ir.Node | ir.Arg) -> bool:
        """Whether libcst can see a node nowhere but where CPython does."""
        ref: Any = node.ref
        if self.program.is_formatted(node if isinstance(node, ir.Node) else node.value):
            return False
        if isinstance(ref, ast.GeneratorExp) or (isinstance(ref, ast.BoolOp) and len(ref.values) > 2):
            return False  # the brackets around it are its own; one of it is several of ours
        start, end = self._near(ref)
        if (isinstance(ref, ast.Tuple) and self.text[start] == "(") or _SEMICOLON.match(self.text, end):
            return False
        return isinstance(node, ir.Node) or isinstance(ref, (ast.keyword, ast.Starred)) or self._is_bare(start)

    def _is_bare(self, start: int) -> bool:
        """Whether an argument certainly has no parentheses of its own around it, which libcst takes for a part of it."""
        before = _BEFORE.search(self.text, max(0, start - _REACH), start)
        if before is None:
            return False
        line = self.text.rfind("\n", 0, before.start()) + 1
        return "\n" not in before[0] or "#" not in self.text[line : before.start()]

    def _offset(self, line: int, column: int) -> int:
        start = self.starts[line - 1]
        end = self.starts[line] if line < len(self.starts) else len(self.text)
        text = self.text[start:end]
        if text.isascii():
            return start + min(column, len(text))
        return start + len(text.encode(errors="surrogatepass")[:column].decode(errors="replace"))


_SEMICOLON = re.compile(r"[ \t]*;")
_REACH = 200
_BEFORE = re.compile(r"(?:,|[\w\])]\()\s*\Z")
"""What an argument stands behind: a comma, or the bracket of the call, which follows what is called."""


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
