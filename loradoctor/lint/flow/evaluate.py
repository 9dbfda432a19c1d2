"""Expressions: their abstract values, on every path their evaluation can take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import calls, comparisons, comprehensions, containers, generators
from loradoctor.lint.flow.attributes import attribute
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import (
    LARGEST,
    NAMESPACE,
    NONE,
    Function,
    Generator,
    Items,
    Known,
    Many,
    Ref,
    Table,
    Template,
    Unknown,
    Value,
    concat,
)

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

Outcomes = list[tuple[Value, State]]

WAYS = 12
"""How many ways the parts of one expression may go: a table of conditional entries would double them with each."""

NEVER = Unknown("never")
"""The value of a call that does not return."""


def evaluate(machine: Machine, node: ir.Expr, state: State, scope: int) -> Outcomes:
    """Every value ``node`` can have, each with the path on which it has it. ``state`` belongs to the callee."""
    return _HANDLERS[type(node)](machine, node, state, scope)


def single(machine: Machine, node: ir.Expr, state: State, scope: int) -> tuple[Value, State]:
    """The value of an expression that is not expected to fork (a target, a default); the first one if it does."""
    outcomes = evaluate(machine, node, state, scope)
    return outcomes[0] if outcomes else (NEVER, state)


def many(machine: Machine, nodes: Iterable[ir.Expr], state: State, scope: int) -> list[tuple[tuple[Value, ...], State]]:
    """The values of several expressions evaluated in order."""
    results: list[tuple[list[Value], State]] = [([], state)]
    for node in nodes:
        if len(results) == 1 and len(outcomes := evaluate(machine, node, results[0][1], scope)) == 1:  # nearly always
            results[0][0].append(outcomes[0][0])
            results = [(results[0][0], outcomes[0][1])]
            continue
        ways = [outcomes] if len(results) == 1 else [evaluate(machine, node, each, scope) for _, each in results]
        results = [([*done, v], after) for (done, _), way in zip(results, ways, strict=True) for v, after in way]
        if len(results) > WAYS:
            del results[WAYS:]
            machine.trace.cut_short()
    return [(tuple(values), after) for values, after in results]


def _name(machine: Machine, node: ir.Name, state: State, scope: int) -> Outcomes:
    return [(machine.lookup(node.id, scope, state), state)]


def _const(_: Machine, node: ir.Const, state: State, __: int) -> Outcomes:
    return [(Known(node.value), state)]


def _attr(machine: Machine, node: ir.Attr, state: State, scope: int) -> Outcomes:
    outcomes: Outcomes = []
    for receiver, after in evaluate(machine, node.value, state, scope):
        outcomes += attribute(machine, receiver, node.name, after)
    return outcomes


def _call(machine: Machine, node: ir.Call, state: State, scope: int) -> Outcomes:
    return calls.call(machine, node, state, scope)


def _text(machine: Machine, node: ir.Text, state: State, scope: int) -> Outcomes:
    expressions = [p for p in node.parts if isinstance(p, ir.Expr)]
    outcomes: Outcomes = []
    for values, after in many(machine, expressions, state, scope):
        found = iter(values)
        parts = tuple(Known(p) if isinstance(p, str) else next(found) for p in node.parts)
        outcomes.append((concat(parts), after))
    return outcomes


def _sequence(machine: Machine, node: ir.Sequence, state: State, scope: int) -> Outcomes:
    outcomes: Outcomes = []
    for values, after in many(machine, [i.value if isinstance(i, ir.Star) else i for i in node.items], state, scope):
        if any(isinstance(i, ir.Star) for i in node.items):
            outcomes.append((machine.fresh(node.uid, after), after))
        else:
            outcomes.append((Items(node.kind, values), after))
    return outcomes


def _mapping(machine: Machine, node: ir.Mapping, state: State, scope: int) -> Outcomes:
    flat = [e for key, value in node.items for e in ((key, value) if key is not None else (value,))]
    outcomes: Outcomes = []
    for values, after in many(machine, flat, state, scope):
        found = iter(values)
        items: list[tuple[object, Value]] = []
        complete = True
        for key, _ in node.items:
            name = next(found) if key is not None else None
            value = next(found)
            if isinstance(name, Known):
                items.append((name.value, value))
            elif name is None and isinstance(value, Table) and len(items) + len(value.items) <= LARGEST:
                items += value.items
                complete &= value.complete
            else:
                complete = False
        outcomes.append((Table(tuple(items), complete), after))
    return outcomes


def _lambda(machine: Machine, node: ir.Lambda, state: State, scope: int) -> Outcomes:
    machine.bind_records()
    return [(Function(node, scope), state)]


def _compare(machine: Machine, node: ir.Compare, state: State, scope: int) -> Outcomes:
    return comparisons.compare(machine, node, state, scope)


def _test(machine: Machine, node: ir.Not, state: State, scope: int) -> Outcomes:
    return comparisons.test(machine, node, state, scope)


def _boolean(machine: Machine, node: ir.BoolOp, state: State, scope: int) -> Outcomes:
    return comparisons.boolean(machine, node, state, scope)


def _choice(machine: Machine, node: ir.Choice, state: State, scope: int) -> Outcomes:
    return comparisons.choice(machine, node, state, scope)


def _subscript(machine: Machine, node: ir.Subscript, state: State, scope: int) -> Outcomes:
    outcomes: Outcomes = []
    parts = [node.value] if node.index is None else [node.value, node.index]
    for values, after in many(machine, parts, state, scope):
        if len(values) == 2 and isinstance(values[0], Table) and isinstance(values[1], Unknown):
            outcomes += containers.choose(machine, values[0], values[1], node.uid, after)
        else:
            outcomes.append((_item(machine, values, node.uid, after), after))
    return outcomes


def _item(machine: Machine, values: tuple[Value, ...], uid: int, state: State) -> Value:
    match values:
        case (Many(items=items), *_) if items:
            return items[0]
        case (Ref() as namespace, Known(value=str(name))) if namespace == NAMESPACE:
            return machine.lookup(name, 0, state)
        case (Items(items=items), Known(value=int(index))) if -len(items) <= index < len(items):
            return items[index]
        case (Table() as table, Known(value=key)):
            return table.get(key) or machine.fresh(uid, state)
        case (Ref(name="os.environ"), Known(value=name)):
            return Unknown(f"environment:{name}")
        case (Unknown(key=key), Known(value=index)):
            return state.attrs.get((key, f"[{index!r}]")) or Unknown(f"{key}[{index!r}]")
        case _:
            return machine.fresh(uid, state)


def _binary(machine: Machine, node: ir.Binary, state: State, scope: int) -> Outcomes:
    chain = [node]
    while isinstance(chain[-1].left, ir.Binary):
        chain.append(chain[-1].left)
    outcomes = evaluate(machine, chain[-1].left, state, scope)
    for each in reversed(chain):
        ways = [(left, evaluate(machine, each.right, before, scope)) for left, before in outcomes]
        outcomes = [(_joined(machine, each, left, right, after), after) for left, way in ways for right, after in way]
        if len(outcomes) > WAYS:
            del outcomes[WAYS:]
            machine.trace.cut_short()
    return outcomes


def _joined(machine: Machine, node: ir.Binary, left: Value, right: Value, state: State) -> Value:
    if node.op == "|" and isinstance(left, Table) and isinstance(right, Table):
        return Table((*left.items, *right.items), left.complete and right.complete)
    text = (Known, Template, Unknown)
    if isinstance(left, text) and isinstance(right, text) and (_texty(left) or _texty(right)):
        if node.op == "+":
            return concat((left, right))
        if node.op == "/":
            return concat((left, Known("/"), right))
    if node.op == "+" and isinstance(left, Items) and isinstance(right, Items) and len(left.items) + len(right.items) <= LARGEST:
        return Items(left.kind, left.items + right.items)
    return machine.fresh(node.uid, state)


def _texty(value: Value) -> bool:
    return isinstance(value, Template) or (isinstance(value, Known) and isinstance(value.value, str))


def _walrus(machine: Machine, node: ir.Walrus, state: State, scope: int) -> Outcomes:
    outcomes = evaluate(machine, node.value, state, scope)
    for value, after in outcomes:
        if isinstance(node.target, ir.Name):
            machine.bind(node.target.id, value, scope, after)
    return outcomes


def _comprehension(machine: Machine, node: ir.Comprehension, state: State, scope: int) -> Outcomes:
    return comprehensions.comprehension(machine, node, state, scope)


def _star(machine: Machine, node: ir.Star, state: State, scope: int) -> Outcomes:
    return evaluate(machine, node.value, state, scope)


def _yield(machine: Machine, node: ir.Yield, state: State, scope: int) -> Outcomes:
    outcomes = [(NONE, state)] if node.value is None else evaluate(machine, node.value, state, scope)
    consumer = machine.consumers[-1] if machine.consumers else None
    if consumer is None:
        return [(machine.fresh(node.uid, s), s) for _, s in outcomes]
    after: list[State] = []
    for value, each in outcomes:
        after += generators.iterate(machine, value, each, consumer) if isinstance(value, Generator) else consumer(value, each)
    return [(machine.fresh(node.uid, s), s) for s in machine.join(after)]


def _opaque(machine: Machine, node: ir.Opaque, state: State, scope: int) -> Outcomes:
    return [(machine.fresh(node.uid, s), s) for _, s in many(machine, node.parts, state, scope)]


_HANDLERS: dict[type[ir.Expr], Callable[..., Outcomes]] = {
    ir.Name: _name,
    ir.Attr: _attr,
    ir.Const: _const,
    ir.Text: _text,
    ir.Call: _call,
    ir.Sequence: _sequence,
    ir.Mapping: _mapping,
    ir.Lambda: _lambda,
    ir.Not: _test,
    ir.Compare: _compare,
    ir.BoolOp: _boolean,
    ir.Choice: _choice,
    ir.Subscript: _subscript,
    ir.Binary: _binary,
    ir.Walrus: _walrus,
    ir.Comprehension: _comprehension,
    ir.Star: _star,
    ir.Yield: _yield,
    ir.Opaque: _opaque,
}

__all__ = ["NEVER", "evaluate", "many", "single"]
