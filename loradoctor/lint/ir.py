"""The lowered form of a module: what the executor runs. Small, plain and free of libcst.

Every expression and statement keeps ``ref``, an opaque handle of the syntax node it came from, and ``uid``, its number in
the module; only :mod:`loradoctor.lint.lower` looks inside a ``ref``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(slots=True, eq=False)
class Node:
    """Anything lowered; compared by identity."""

    uid: int
    ref: object = field(repr=False)


class Expr(Node):
    """An expression."""

    __slots__ = ()


class Stmt(Node):
    """A statement."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Name(Expr):
    """A variable."""

    id: str


@dataclass(slots=True, eq=False)
class Attr(Expr):
    """``value.name``."""

    value: Expr
    name: str


@dataclass(slots=True, eq=False)
class Const(Expr):
    """A literal whose value is known."""

    value: object


@dataclass(slots=True, eq=False)
class Text(Expr):
    """An f-string: literal parts and expressions in order."""

    parts: tuple[str | Expr, ...]


@dataclass(slots=True, eq=False)
class Arg:
    """One argument of a call; ``star`` is ``"*"`` or ``"**"`` for unpacked ones. ``ref`` is the whole argument."""

    value: Expr
    name: str | None
    star: str
    ref: object = field(repr=False)


@dataclass(slots=True, eq=False)
class Call(Expr):
    """A call."""

    func: Expr
    args: tuple[Arg, ...]


@dataclass(slots=True, eq=False)
class Sequence(Expr):
    """A list, tuple or set display."""

    kind: Literal["list", "tuple", "set"]
    items: tuple[Expr, ...]


@dataclass(slots=True, eq=False)
class Mapping(Expr):
    """A dict display; a key of None is ``**value``."""

    items: tuple[tuple[Expr | None, Expr], ...]


@dataclass(slots=True, eq=False)
class Param:
    """A parameter; ``star`` as in :class:`Arg`."""

    name: str
    default: Expr | None
    star: str
    keyword_only: bool


@dataclass(slots=True, eq=False)
class Lambda(Expr):
    """A lambda."""

    params: tuple[Param, ...]
    body: Expr


@dataclass(slots=True, eq=False)
class Not(Expr):
    """``not value``."""

    value: Expr


@dataclass(slots=True, eq=False)
class BoolOp(Expr):
    """``left and right``, ``left or right``."""

    op: Literal["and", "or"]
    left: Expr
    right: Expr


@dataclass(slots=True, eq=False)
class Compare(Expr):
    """A comparison with one operator; longer chains are :class:`Opaque`."""

    left: Expr
    op: str
    right: Expr


@dataclass(slots=True, eq=False)
class Choice(Expr):
    """``body if test else orelse``."""

    test: Expr
    body: Expr
    orelse: Expr


@dataclass(slots=True, eq=False)
class Subscript(Expr):
    """``value[index]``; a slice has no index."""

    value: Expr
    index: Expr | None


@dataclass(slots=True, eq=False)
class Binary(Expr):
    """An arithmetic expression."""

    op: str
    left: Expr
    right: Expr


@dataclass(slots=True, eq=False)
class Walrus(Expr):
    """``(target := value)``."""

    target: Expr
    value: Expr


@dataclass(slots=True, eq=False)
class Comprehension(Expr):
    """A comprehension or generator expression: element(s), then ``(target, iterable, conditions)`` clauses."""

    kind: str
    elements: tuple[Expr, ...]
    clauses: tuple[tuple[Expr, Expr, tuple[Expr, ...]], ...]


@dataclass(slots=True, eq=False)
class Star(Expr):
    """``*value`` in a display or target."""

    value: Expr


@dataclass(slots=True, eq=False)
class Yield(Expr):
    """``yield value``."""

    value: Expr | None


@dataclass(slots=True, eq=False)
class Opaque(Expr):
    """Anything else: its parts are evaluated, its value is unknown."""

    parts: tuple[Expr, ...]


@dataclass(slots=True, eq=False)
class Assign(Stmt):
    """``target = … = value``; an annotated assignment without a value is not lowered."""

    targets: tuple[Expr, ...]
    value: Expr


@dataclass(slots=True, eq=False)
class Augment(Stmt):
    """``target op= value``."""

    target: Expr
    value: Expr


@dataclass(slots=True, eq=False)
class Evaluate(Stmt):
    """An expression whose value is dropped."""

    value: Expr


@dataclass(slots=True, eq=False)
class If(Stmt):
    """A conditional."""

    test: Expr
    body: tuple[Stmt, ...]
    orelse: tuple[Stmt, ...]


@dataclass(slots=True, eq=False)
class For(Stmt):
    """A for loop."""

    target: Expr
    iterable: Expr
    body: tuple[Stmt, ...]
    orelse: tuple[Stmt, ...]


@dataclass(slots=True, eq=False)
class While(Stmt):
    """A while loop."""

    test: Expr
    body: tuple[Stmt, ...]
    orelse: tuple[Stmt, ...]


@dataclass(slots=True, eq=False)
class With(Stmt):
    """A with statement: ``(context, target)`` pairs."""

    items: tuple[tuple[Expr, Expr | None], ...]
    body: tuple[Stmt, ...]


@dataclass(slots=True, eq=False)
class Handler:
    """An ``except`` clause."""

    name: str | None
    body: tuple[Stmt, ...]


@dataclass(slots=True, eq=False)
class Try(Stmt):
    """A try statement."""

    body: tuple[Stmt, ...]
    handlers: tuple[Handler, ...]
    orelse: tuple[Stmt, ...]
    final: tuple[Stmt, ...]


@dataclass(slots=True, eq=False)
class Case:
    """A ``case``: the names its pattern binds, its literal or None, its guard, its body."""

    names: tuple[str, ...]
    guard: Expr | None
    wildcard: bool
    body: tuple[Stmt, ...]


@dataclass(slots=True, eq=False)
class Match(Stmt):
    """A match statement."""

    subject: Expr
    cases: tuple[Case, ...]


@dataclass(slots=True, eq=False)
class Function(Stmt):
    """A function definition. ``words`` are all identifiers in it, ``generator`` whether it yields."""

    name: str
    params: tuple[Param, ...]
    body: tuple[Stmt, ...]
    decorators: tuple[Expr, ...]
    generator: bool
    words: frozenset[str]


@dataclass(slots=True, eq=False)
class Class(Stmt):
    """A class definition."""

    name: str
    bases: tuple[Arg, ...]
    body: tuple[Stmt, ...]
    decorators: tuple[Expr, ...]


@dataclass(slots=True, eq=False)
class Return(Stmt):
    """``return value``."""

    value: Expr | None


@dataclass(slots=True, eq=False)
class Leave(Stmt):
    """``break``, ``continue`` or ``raise`` (whose expression, if any, is ``value``)."""

    how: Literal["break", "continue", "raise"]
    value: Expr | None


@dataclass(slots=True, eq=False)
class Import(Stmt):
    """Names bound to dotted names; ``from m import *`` binds ``"*"`` to ``m``."""

    bindings: tuple[tuple[str, str], ...]


@dataclass(slots=True, eq=False)
class Delete(Stmt):
    """``del target, …``."""

    targets: tuple[Expr, ...]


@dataclass(slots=True, eq=False)
class Assert(Stmt):
    """``assert test``."""

    test: Expr


@dataclass(slots=True, eq=False)
class Outer(Stmt):
    """``global`` or ``nonlocal`` names."""

    kind: Literal["global", "nonlocal"]
    names: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Program:
    """A lowered module: its statements, the numbers of its first and last node, and all identifiers in it."""

    body: tuple[Stmt, ...]
    first: int
    last: int
    words: frozenset[str]

    def holds(self, node: Node) -> bool:
        """Whether a node is of this program."""
        return self.first <= node.uid <= self.last
