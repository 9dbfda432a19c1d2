"""Questions about the text of a module that need no execution: every node, what imports bind, where versions are told apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from loradoctor.lint import ir

if TYPE_CHECKING:
    from loradoctor.lint.module import Module, Site


def walk(*nodes: object) -> Iterator[ir.Node]:
    """Every node below and including these, in the order of the text."""
    pending: list[object] = list(reversed(nodes))
    while pending:
        node = pending.pop()
        if isinstance(node, tuple):
            pending += reversed(node)
            continue
        fields = getattr(type(node), "field_names", None)
        if fields is None:
            continue
        if isinstance(node, ir.Node):
            yield node
        pending += [getattr(node, name) for name in reversed(fields) if name not in ("uid", "ref", "words")]


@lru_cache(maxsize=1)  # several questions of one rule walk the same text
def nodes(module: Module) -> list[ir.Node]:
    """Every node of a module, in the order of the text."""
    return list(walk(module.program.body))


def own_calls(module: Module, *names: str) -> Iterator[Site]:
    """The sites of :meth:`Module.calls` that stand in this file itself."""
    return (site for site in module.calls(*names) if module.unit(site.node).source is module.source)


def dotted(node: ir.Expr) -> str:
    """``a.b.c`` of a chain of attributes on a name, else nothing."""
    parts: list[str] = []
    while isinstance(node, ir.Attr):
        parts.append(node.name)
        node = node.value
    return ".".join((node.id, *reversed(parts))) if isinstance(node, ir.Name) else ""


@dataclass(frozen=True, slots=True)
class Imported:
    """A name that an import statement binds to something of a library, as written.

    ``guarded`` in a ``try`` with a way out, and where only type checkers look.
    """

    node: ir.Import
    bound: str
    dotted: str
    guarded: bool
    top: bool


def statements(body: Iterable[ir.Stmt]) -> Iterator[ir.Stmt]:
    """Every statement in these and below, in the order of the text."""
    for statement in body:
        yield statement
        for part in _BLOCKS.get(type(statement), ()):
            for each in getattr(statement, part):
                yield from statements((each,) if isinstance(each, ir.Stmt) else each.body)


_BLOCKS: dict[type[ir.Stmt], tuple[str, ...]] = {
    ir.If: ("body", "orelse"),
    ir.For: ("body", "orelse"),
    ir.While: ("body", "orelse"),
    ir.With: ("body",),
    ir.Try: ("body", "handlers", "orelse", "final"),
    ir.Match: ("cases",),
    ir.Function: ("body",),
    ir.Class: ("body",),
}


def imports(module: Module) -> list[Imported]:
    """Everything this file imports, in the order of the text."""
    every = list(statements(module.program.body))
    found = [n for n in every if isinstance(n, ir.Import)]
    guarded = [block for t in every if isinstance(t, ir.Try) and t.handlers for block in (t.body, *(h.body for h in t.handlers))]
    guarded += [t.body for t in every if isinstance(t, ir.If) and dotted(t.test).endswith("TYPE_CHECKING")]
    ways_out = {n.uid for block in guarded for n in statements(block)}
    top = {statement.uid for statement in module.program.body}
    return [Imported(n, bound, name, n.uid in ways_out, n.uid in top) for n in found for bound, name in n.bindings]


def before(module: Module, node: ir.Node) -> list[ir.Stmt]:
    """The statements that stand before ``node`` in the blocks around it, and so have run; those of a class are unknown to its methods."""
    found: list[ir.Stmt] = []
    block, around = module.program.body, None
    while (index := next((i for i, s in enumerate(block) if any(n is node for n in walk(s))), None)) is not None:
        holder = block[index]
        if not (isinstance(around, ir.Class) and isinstance(holder, ir.Function)):
            found += block[:index]
        clauses = (*getattr(holder, "handlers", ()), *getattr(holder, "cases", ()))
        blocks = (*(getattr(holder, part, ()) for part in ("body", "orelse", "final")), *(clause.body for clause in clauses))
        block = next((b for b in blocks if isinstance(b, tuple) and any(n is node for n in walk(b))), ())
        around = holder
    return found


def version_dependent(module: Module) -> frozenset[int]:
    """The nodes that only run where a test of some version, signature or attribute allows it, or that a failed attempt replaces."""
    asked = _answers(module)
    found: set[int] = set()
    for node in nodes(module):
        if isinstance(node, (ir.If, ir.Choice)) and _asks(node.test, asked | {"parameters"}):
            found |= {n.uid for n in walk(node.body, node.orelse)}
        elif isinstance(node, ir.Try) and any(_ATTEMPTED.intersection(handler.catches) for handler in node.handlers):
            found |= {n.uid for n in walk(node.body, node.handlers)}
    return frozenset(found)


def _answers(module: Module) -> frozenset[str]:
    """What asks for a version or for what a call takes, and the names of this file that stand for the answer or for part of it."""
    asked = set(_QUESTIONS)
    statements = [s for s in nodes(module) if isinstance(s, (ir.Assign, ir.Function))]
    grown = True
    while grown:
        known = len(asked)
        for statement in statements:
            if isinstance(statement, ir.Function):  # def takes(call, name): return name in inspect.signature(call).parameters
                returned = (s.value for s in statement.body if isinstance(s, ir.Return) and s.value is not None)
                if any(_is_answer(value, asked) for value in returned):
                    asked.add(statement.name)
            elif _is_answer(statement.value, asked):
                asked |= {target.id for target in statement.targets if isinstance(target, ir.Name)}
        grown = len(asked) > known
    return frozenset(asked)


def _is_answer(value: ir.Expr, asked: set[str]) -> bool:
    """Whether a value is a question's answer, or a test, a part or a collection of it; not what a call makes of it."""
    if isinstance(value, ir.Call) and not (isinstance(value.func, ir.Name) and value.func.id in _COLLECTIONS):
        value = value.func
    return isinstance(value, _ANSWERS) and _asks(value, asked)


def _asks(test: ir.Expr, asked: Set[str]) -> bool:
    """Whether a question, or a name that holds its answer, stands somewhere in an expression."""
    names = [getattr(n, "id", "") + getattr(n, "name", "") for n in walk(test)]
    return any(name in asked or "version" in name.lower() for name in names)


_QUESTIONS = frozenset({"hasattr", "signature", "getfullargspec", "__dataclass_fields__", "fields", "co_varnames"})
_COLLECTIONS = frozenset({"set", "frozenset", "list", "tuple", "sorted", "dict", "bool"})
_ANSWERS = (ir.Name, ir.Attr, ir.Call, ir.Compare, ir.Not, ir.BoolOp, ir.Comprehension)
_ATTEMPTED = frozenset({"TypeError", "ImportError", "ModuleNotFoundError", "AttributeError"})
"""What a call raises that a library does not know: who catches one of these has another way."""


def name_span(module: Module, node: ir.Import, name: str) -> tuple[int, int] | None:
    """Where ``name`` is written in what an import statement imports."""
    start, end = module.span(node)
    text = module.source.text[start:end]
    after = text.find("import")
    match = re.search(rf"(?<![\w.]){re.escape(name)}\b", text[after:]) if after >= 0 else None
    return None if match is None else (start + after + match.start(), start + after + match.end())
