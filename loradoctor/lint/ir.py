"""The lowered form of a module: what the executor runs. Small, plain and free of libcst.

Every expression and statement keeps ``ref``, an opaque handle of the syntax node it came from, and ``uid``, its number in
the module; only what made a ``ref`` looks inside it.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator
from typing import Literal

from loradoctor.lint.record import node

numbers = itertools.count()
"""Numbers are never used twice in a process, so that the nodes of several files can meet in one analysis."""


@node
class Node:
    """Anything lowered; compared by identity."""

    uid: int
    ref: object


class Expr(Node):
    """An expression."""


class Stmt(Node):
    """A statement."""


@node
class Name(Expr):
    """A variable."""

    id: str


@node
class Attr(Expr):
    """``value.name``."""

    value: Expr
    name: str


@node
class Const(Expr):
    """A literal whose value is known."""

    value: object


@node
class Text(Expr):
    """An f-string: literal parts and expressions in order."""

    parts: tuple[str | Expr, ...]


@node
class Arg:
    """One argument of a call; ``star`` is ``"*"`` or ``"**"`` for unpacked ones. ``ref`` is the whole argument."""

    value: Expr
    name: str | None
    star: str
    ref: object


@node
class Call(Expr):
    """A call."""

    func: Expr
    args: tuple[Arg, ...]


@node
class Sequence(Expr):
    """A list, tuple or set display."""

    kind: Literal["list", "tuple", "set"]
    items: tuple[Expr, ...]


@node
class Mapping(Expr):
    """A dict display; a key of None is ``**value``."""

    items: tuple[tuple[Expr | None, Expr], ...]


@node
class Param:
    """A parameter; ``star`` as in :class:`Arg`."""

    name: str
    default: Expr | None
    star: str
    keyword_only: bool


@node
class Lambda(Expr):
    """A lambda."""

    params: tuple[Param, ...]
    body: Expr


@node
class Not(Expr):
    """``not value``."""

    value: Expr


@node
class BoolOp(Expr):
    """``left and right``, ``left or right``."""

    op: Literal["and", "or"]
    left: Expr
    right: Expr


@node
class Compare(Expr):
    """A comparison with one operator; longer chains are :class:`Opaque`."""

    left: Expr
    op: str
    right: Expr


@node
class Choice(Expr):
    """``body if test else orelse``."""

    test: Expr
    body: Expr
    orelse: Expr


@node
class Subscript(Expr):
    """``value[index]``; a slice has no index."""

    value: Expr
    index: Expr | None


@node
class Binary(Expr):
    """An arithmetic expression."""

    op: str
    left: Expr
    right: Expr


@node
class Walrus(Expr):
    """``(target := value)``."""

    target: Expr
    value: Expr


@node
class Comprehension(Expr):
    """A comprehension or generator expression: element(s), then ``(target, iterable, conditions)`` clauses."""

    kind: str
    elements: tuple[Expr, ...]
    clauses: tuple[tuple[Expr, Expr, tuple[Expr, ...]], ...]


@node
class Star(Expr):
    """``*value`` in a display or target."""

    value: Expr


@node
class Yield(Expr):
    """``yield value``."""

    value: Expr | None


@node
class Opaque(Expr):
    """Anything else: its parts are evaluated, its value is unknown."""

    parts: tuple[Expr, ...]


@node
class Assign(Stmt):
    """``target = … = value``; an annotated assignment without a value is not lowered."""

    targets: tuple[Expr, ...]
    value: Expr


@node
class Augment(Stmt):
    """``target op= value``."""

    target: Expr
    value: Expr


@node
class Evaluate(Stmt):
    """An expression whose value is dropped."""

    value: Expr


@node
class If(Stmt):
    """A conditional."""

    test: Expr
    body: tuple[Stmt, ...]
    orelse: tuple[Stmt, ...]


@node
class For(Stmt):
    """A for loop."""

    target: Expr
    iterable: Expr
    body: tuple[Stmt, ...]
    orelse: tuple[Stmt, ...]


@node
class While(Stmt):
    """A while loop."""

    test: Expr
    body: tuple[Stmt, ...]
    orelse: tuple[Stmt, ...]


@node
class With(Stmt):
    """A with statement: ``(context, target)`` pairs."""

    items: tuple[tuple[Expr, Expr | None], ...]
    body: tuple[Stmt, ...]


@node
class Handler:
    """An ``except`` clause; ``catches`` are the last names of its exceptions, none for a bare one."""

    name: str | None
    body: tuple[Stmt, ...]
    catches: tuple[str, ...] = ()


@node
class Try(Stmt):
    """A try statement."""

    body: tuple[Stmt, ...]
    handlers: tuple[Handler, ...]
    orelse: tuple[Stmt, ...]
    final: tuple[Stmt, ...]


@node
class Case:
    """A ``case``: the names its pattern binds, its guard, its body.

    A pattern of literals alone has them as ``literals``, a bare class pattern (``case PeftModel():``) the class as ``cls``.
    """

    names: tuple[str, ...]
    guard: Expr | None
    wildcard: bool
    body: tuple[Stmt, ...]
    literals: tuple[object, ...] = ()
    cls: Expr | None = None


@node
class Match(Stmt):
    """A match statement."""

    subject: Expr
    cases: tuple[Case, ...]


@node
class Function(Stmt):
    """A function definition. ``words`` are all identifiers in it, ``generator`` whether it yields."""

    name: str
    params: tuple[Param, ...]
    body: tuple[Stmt, ...]
    decorators: tuple[Expr, ...]
    generator: bool
    words: frozenset[str]


@node
class Class(Stmt):
    """A class definition; ``fields`` are the names that its body annotates, in order."""

    name: str
    bases: tuple[Arg, ...]
    body: tuple[Stmt, ...]
    decorators: tuple[Expr, ...]
    fields: tuple[str, ...] = ()


@node
class Return(Stmt):
    """``return value``."""

    value: Expr | None


@node
class Leave(Stmt):
    """``break``, ``continue`` or ``raise`` (whose expression, if any, is ``value``)."""

    how: Literal["break", "continue", "raise"]
    value: Expr | None


@node
class Import(Stmt):
    """Names bound to dotted names; ``from m import *`` binds ``"*"`` to ``m``."""

    bindings: tuple[tuple[str, str], ...]


@node
class Delete(Stmt):
    """``del target, …``."""

    targets: tuple[Expr, ...]


@node
class Assert(Stmt):
    """``assert test``."""

    test: Expr


@node
class Outer(Stmt):
    """``global`` or ``nonlocal`` names."""

    kind: Literal["global", "nonlocal"]
    names: tuple[str, ...]


@node
class Program:
    """A lowered module: its statements, the numbers of its first and last node, and all identifiers in it.

    ``formatted`` are the numbers between which the parts of each formatted string are, in order.
    """

    body: tuple[Stmt, ...]
    first: int
    last: int
    words: frozenset[str]
    formatted: tuple[tuple[int, int], ...] = ()

    def holds(self, part: Node) -> bool:
        """Whether a node is of this program."""
        return self.first <= part.uid <= self.last

    def is_formatted(self, part: Node) -> bool:
        """Whether a node stands inside a formatted string."""
        place = bisect_right(self.formatted, (part.uid, self.last)) - 1
        return place >= 0 and part.uid < self.formatted[place][1]


def parts(root: Expr) -> Iterator[Expr]:
    """An expression and everything inside it."""
    pending: list[object] = [root]
    while pending:
        part = pending.pop()
        if isinstance(part, Expr):
            yield part
        if isinstance(part, tuple):
            pending += part
        elif hasattr(part, "field_names"):
            pending += [value for name, value in vars(part).items() if name != "ref"]
