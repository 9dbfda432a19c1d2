"""What the text of a program tells before it is run: which names are settings, which words matter, which branches do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loradoctor.lint import ir
from loradoctor.lint.flow.values import Derived, Value


def expects_failure(context: ir.Expr) -> bool:
    """Whether this is ``pytest.raises(...)`` or its like: what goes wrong inside is meant to."""
    func = context.func if isinstance(context, ir.Call) else None
    return isinstance(func, ir.Attr) and func.name in ("raises", "warns", "assertRaises", "assertRaisesRegex", "assertWarns", "assertLogs")


def statements(body: Iterable[ir.Stmt]) -> Iterable[ir.Stmt]:
    """Every statement in these and below, in no particular order."""
    pending = list(body)
    while pending:
        node = pending.pop()
        yield node
        for part in ("body", "orelse", "final"):
            pending += getattr(node, part, ())
        for clause in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            pending += clause.body


def is_part(oid: str, whole: str) -> bool:
    """Whether an identity is that of an unknown value or of something reached through it."""
    return oid == whole or (oid.startswith(whole) and oid[len(whole)] in ".[")


def is_of_a_model(iterable: Value) -> bool:
    """Whether a loop is over the parts of a model, of which there are always all kinds."""
    while isinstance(iterable, Derived) and iterable.kind == "enumerate":
        iterable = iterable.source
    return isinstance(iterable, Derived) and iterable.kind != "range"


def names_from(loop: ir.For) -> set[str]:
    """The names that a loop binds to its element, and those its body computes from them."""
    names = {part.id for part in ir.parts(loop.target) if isinstance(part, ir.Name)}
    for node in loop.body:
        if isinstance(node, ir.Assign) and any(isinstance(part, ir.Name) and part.id in names for part in ir.parts(node.value)):
            names |= {target.id for target in node.targets if isinstance(target, ir.Name)}
    return names


def count_assignments(program: ir.Program) -> Counter[str]:
    """How often each plain name is assigned anywhere: a name assigned once is a setting, not a variable."""
    return _outline(program).assigned


def interesting_words(program: ir.Program, vocabulary: frozenset[str]) -> frozenset[str]:
    """The vocabulary and, to a fixpoint, the names of this file's functions and classes that use it."""
    outline = _outline(program)
    found = {bound for bound, last in outline.imported if last in vocabulary}
    words = vocabulary | found if found else vocabulary
    left = outline.named
    while True:
        found = {name for name, used in left if not used.isdisjoint(words)}
        if found <= words:
            return words
        words |= found
        left = [(name, used) for name, used in left if name not in words]


@dataclass(frozen=True)
class _Outline:
    """What is asked of a program again by every program that imports it: functions and classes with the words they use."""

    assigned: Counter[str]
    imported: tuple[tuple[str, str], ...]
    named: Sequence[tuple[str, frozenset[str]]]


def _outline(program: ir.Program) -> _Outline:
    known: _Outline | None = program.__dict__.get("outline")
    if known is None:
        known = program.__dict__["outline"] = _outlined(program)
    return known


def _outlined(program: ir.Program) -> _Outline:
    assigned: Counter[str] = Counter()
    imported: dict[tuple[str, str], None] = {}
    named: list[tuple[str, frozenset[str]]] = []
    for node in statements(program.body):
        if isinstance(node, (ir.Assign, ir.For, ir.Augment)):
            targets = node.targets if isinstance(node, ir.Assign) else (node.target,)
            assigned.update([t.id for t in targets if isinstance(t, ir.Name)])
        elif isinstance(node, ir.Import):
            imported |= {(bound, dotted.rpartition(".")[2]): None for bound, dotted in node.bindings}
        elif isinstance(node, ir.Function):
            named.append((node.name, node.words))
        elif isinstance(node, ir.Class):
            named += [(node.name, s.words) for s in node.body if isinstance(s, ir.Function)]
    return _Outline(assigned, tuple(imported), named)


def is_inert(node: ir.If, interesting: frozenset[str]) -> bool:
    """Whether a conditional can neither leave the block it is in nor do anything that a rule looks at.

    Both its ways are run, but they are not told apart afterwards.
    """
    for part in statements((node,)):
        if isinstance(part, (ir.Return, ir.Leave, ir.Class, ir.Import)):
            return False
        for name in (n for value in _expressions(part) for n in ir.parts(value)):
            if isinstance(name, ir.Name) and name.id in interesting:
                return False
            if isinstance(name, ir.Attr) and name.name in interesting:
                return False
            if isinstance(name, ir.Const) and isinstance(name.value, str) and name.value in interesting:
                return False
            if isinstance(name, ir.Call) and any(arg.name in interesting for arg in name.args):
                return False
    return True


def calls_interesting(node: ir.Expr, interesting: frozenset[str]) -> bool:
    """Whether an expression calls something that a rule looks at."""
    calls = (part.func for part in ir.parts(node) if isinstance(part, ir.Call))
    return any((isinstance(f, ir.Name) and f.id in interesting) or (isinstance(f, ir.Attr) and f.name in interesting) for f in calls)


def _expressions(node: ir.Stmt) -> Iterable[ir.Expr]:
    for name in getattr(node, "field_names", ()):
        value = getattr(node, name)
        if isinstance(value, ir.Expr):
            yield value
        elif isinstance(value, tuple):
            for item in value:
                yield from (e for e in (item if isinstance(item, tuple) else (item,)) if isinstance(e, ir.Expr))
