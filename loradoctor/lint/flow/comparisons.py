"""Tests as values: comparisons, `and`, `or`, and the choice between two values."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from loradoctor.lint import ir
from loradoctor.lint.flow import calls, conditions, evaluate, guards, predicates
from loradoctor.lint.flow.facts import Model
from loradoctor.lint.flow.state import State, share_conditions
from loradoctor.lint.flow.values import (
    Derived,
    Known,
    Unknown,
    Value,
)

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

Outcomes = list[tuple[Value, State]]


def compare(machine: Machine, node: ir.Compare, state: State, scope: int) -> Outcomes:
    """A comparison."""
    if node.op in ("is", "is not", "==", "!="):
        return test(machine, node, state, scope)
    outcomes: Outcomes = []
    for (left, right), after in evaluate.many(machine, (node.left, node.right), state, scope):
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


def test(machine: Machine, node: ir.Not | ir.Compare | ir.BoolOp, state: State, scope: int) -> Outcomes:
    """The value of a test: one unknown that stands for what it asks, where nothing else depends on it."""
    yes, no = guards.branch(machine, node, state, scope)
    if len(yes) == len(no) == 1 and yes[0].same_world(no[0]):
        first, other = yes[0], no[0]
        held, failed = conditions.parted(first, other)
        if held and conditions.plain(held):
            return [(Unknown(conditions.every(held)), first)]
        if failed and conditions.plain(failed):
            return [(Unknown(f"not {conditions.every(failed)}"), first)]
        return [(machine.fresh(node.uid, first), first)]
    outcomes: Outcomes = [(Known(value=True), s) for s in yes]
    return outcomes + [(Known(value=False), s) for s in no]


def boolean(machine: Machine, node: ir.BoolOp, state: State, scope: int) -> Outcomes:
    """`and` and `or`."""
    if _is_flag(node):
        return test(machine, node, state, scope)
    outcomes: Outcomes = []
    for left, after in evaluate.evaluate(machine, node.left, state, scope):
        decided = calls.truth(left, after)
        if decided is None:
            for _, then in evaluate.evaluate(machine, node.right, after, scope):
                outcomes.append((machine.fresh(node.uid, then), then))
        elif decided is (node.op == "or"):
            outcomes.append((left, after))
        else:
            outcomes += evaluate.evaluate(machine, node.right, after, scope)
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


def choice(machine: Machine, node: ir.Choice, state: State, scope: int) -> Outcomes:
    """`body if test else orelse`."""
    yes, no = guards.branch(machine, node.test, state, scope)
    outcomes = [o for s in yes for o in evaluate.evaluate(machine, node.body, s, scope)]
    outcomes += [o for s in no for o in evaluate.evaluate(machine, node.orelse, s, scope)]
    if len(outcomes) == 2:  # the plain case: two values of no consequence are one unknown value
        (one, first), (other, second) = outcomes
        if first.oid(one) is None and second.oid(other) is None and first.same_world(second):
            share_conditions(first, second)
            return [(one if one == other else machine.fresh(node.uid, first), first)]
    return outcomes
