"""Text → syntax tree → lowered form: CPython's tree for what a program does, libcst's for where it stands and for what CPython refuses."""

from __future__ import annotations

from typing import Protocol

from loradoctor.lint import ir, lower_ast
from loradoctor.lint.depth import too_deep


class Tree(Protocol):
    """A parsed text."""

    def lower(self) -> ir.Program:
        """The lowered form."""

    def span(self, node: ir.Node | ir.Arg) -> tuple[int, int]:
        """Character offsets of a node of the lowered form."""


class ParseError(ValueError):
    """The text is not Python. ``line`` and ``column`` count from 1."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


def parse(text: str) -> Tree:
    """The tree of ``text``. Raises :class:`ParseError`."""
    if (line := too_deep(text)) is not None:
        raise ParseError("it is nested too deeply", line, 1)
    tree = lower_ast.parse(text)
    if tree is not None:
        return tree
    # It knows syntax newer than the interpreter, and where a text goes wrong; importing it costs as much as a whole run.
    from loradoctor.lint import lower_cst

    return lower_cst.parse(text)
