"""Expressions: their abstract values, on every path their evaluation can take."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from loradoctor.lint import ir
from loradoctor.lint.flow import calls, comprehensions, conditions, containers, functions, guards, predicates
from loradoctor.lint.flow.attributes import attribute
from loradoctor.lint.flow.facts import Model
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import (
    LARGEST,
    NAMESPACE,
    NONE,
    Derived,
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


def _lambda(_: Machine, node: ir.Lambda, state: State, scope: int) -> Outcomes:
    return [(Function(node, scope), state)]


def _compare(machine: Machine, node: ir.Compare, state: State, scope: int) -> Outcomes:
    if node.op in ("is", "is not", "==", "!="):
        return _test(machine, node, state, scope)
    outcomes: Outcomes = []
    for (left, right), after in many(machine, (node.left, node.right), state, scope):
        if isinstance(left, Derived) and left.kind == "adapter_key" and isinstance(right, Derived) and right.kind == "state_dict":
            _seek(machine, right.source, node, after)
        outcomes.append((_compared(machine, left, node, right, after), after))
    return outcomes


_OPPOSITE = {"not in": "in", "<=": ">", ">=": "<"}


def _compared(machine: Machine, left: Value, node: ir.Compare, right: Value, state: State) -> Value:
    """The truth of a comparison, as a value that the same comparison has wherever it stands."""
    op, sized = node.op, (int, float)
    decided = predicates.compare(machine, left, op, right)
    if decided is not None:
        return Known(decided)
    if isinstance(left, Known) and isinstance(right, Known) and op in _ORDER:
        one, two = left.value, right.value
        if isinstance(one, sized) and isinstance(two, sized):
            return Known(_ORDER[op](one, two))
    if isinstance(left, Known) and op in _ORDER and isinstance(right, Unknown):
        left, op, right = right, _MIRRORED[op], left
    inside = predicates.counted(left)
    if inside is not None and (op, right) in _NONEMPTY:
        return inside if _NONEMPTY[op, right] else Unknown(f"not {inside.key}")
    if op == "?" or not (isinstance(left, (Known, Unknown)) and isinstance(right, (Known, Unknown))):
        return machine.fresh(node.uid, state)
    if op in _OPPOSITE:
        return Unknown(f"not {_label(left)} {_OPPOSITE[op]} {_label(right)}")
    return Unknown(f"{_label(left)} {op} {_label(right)}")


_ORDER: dict[str, Callable[[Any, Any], bool]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_NONEMPTY: dict[tuple[str, Value], bool] = {(">", Known(0)): True, (">=", Known(1)): True, ("<", Known(1)): False, ("<=", Known(0)): False}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def _seek(machine: Machine, model: Value, node: ir.Compare, state: State) -> None:
    """An adapter's tensor is looked up in a model's state dict: remember it of a model that has no such names."""
    facts, oid = state.get(model, Model), state.oid(model)
    if facts is not None and oid is not None and not facts.carries_adapter:
        machine.trace.event("adapter key sought", oid, node)


def _label(value: Value) -> str:
    return value.key if isinstance(value, Unknown) else repr(getattr(value, "value", None))


def _test(machine: Machine, node: ir.Not | ir.Compare | ir.BoolOp, state: State, scope: int) -> Outcomes:
    """The value of a test: one unknown that stands for what it asks, where nothing else depends on it."""
    yes, no = guards.branch(machine, node, state, scope)
    if len(yes) == len(no) == 1 and yes[0].same_world(no[0]):
        first, other = yes[0], no[0]
        shared = {k: v for k, v in first.conds.items() if other.conds.get(k) is v}
        held, failed = conditions.learned(first, shared), conditions.learned(other, shared)
        first.conds = shared
        if held and conditions.plain(held):
            return [(Unknown(conditions.every(held)), first)]
        if failed and conditions.plain(failed):
            return [(Unknown(f"not {conditions.every(failed)}"), first)]
        return [(machine.fresh(node.uid, first), first)]
    outcomes: Outcomes = [(Known(value=True), s) for s in yes]
    return outcomes + [(Known(value=False), s) for s in no]


def _boolean(machine: Machine, node: ir.BoolOp, state: State, scope: int) -> Outcomes:
    if _is_flag(node):
        return _test(machine, node, state, scope)
    outcomes: Outcomes = []
    for left, after in evaluate(machine, node.left, state, scope):
        decided = calls.truth(left, after)
        if decided is None:
            for _, then in evaluate(machine, node.right, after, scope):
                outcomes.append((machine.fresh(node.uid, then), then))
        elif decided is (node.op == "or"):
            outcomes.append((left, after))
        else:
            outcomes += evaluate(machine, node.right, after, scope)
    return outcomes


def _is_flag(node: ir.Expr) -> bool:
    """Whether only the truth of an expression can matter: one of its sides is a comparison."""
    if isinstance(node, ir.BoolOp):
        sides = (node.left, node.right)
        simple = all(isinstance(s, (ir.Name, ir.Attr)) or _is_flag(s) for s in sides)
        return simple and any(_is_flag(s) for s in sides)
    return isinstance(node, (ir.Not, ir.Compare)) or (
        isinstance(node, ir.Call) and (getattr(node.func, "id", None) or getattr(node.func, "name", "")) in _QUESTIONS
    )


_QUESTIONS = frozenset({"isinstance", "hasattr", "exists", "isdir", "isfile", "is_file", "is_dir", "bool"})


def _choice(machine: Machine, node: ir.Choice, state: State, scope: int) -> Outcomes:
    yes, no = guards.branch(machine, node.test, state, scope)
    outcomes = [o for s in yes for o in evaluate(machine, node.body, s, scope)]
    outcomes += [o for s in no for o in evaluate(machine, node.orelse, s, scope)]
    if len(outcomes) == 2:  # the plain case: two values of no consequence are one unknown value
        (one, first), (other, second) = outcomes
        if first.oid(one) is None and second.oid(other) is None and first.same_world(second):
            first.conds = {k: v for k, v in first.conds.items() if second.conds.get(k) is v}
            return [(one if one == other else machine.fresh(node.uid, first), first)]
    return outcomes


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
        after += functions.iterate(machine, value, each, consumer) if isinstance(value, Generator) else consumer(value, each)
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
