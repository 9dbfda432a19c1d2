"""Comprehensions and generator expressions: loops that gather what they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import elements, evaluate, generators, loops, survey, targets
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import Derived, Function, Generator, Items, Known, Many, Table, Value

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

Outcomes = list[tuple[Value, State]]
Clauses = tuple[tuple[ir.Expr, ir.Expr, tuple[ir.Expr, ...]], ...]

SPELLED_OUT = 4
"""Over as many known elements the outermost clause of a comprehension is followed one by one: what is in it is a product."""
_GATHERED = "gathered in a comprehension"


def comprehension(machine: Machine, node: ir.Comprehension, state: State, scope: int) -> Outcomes:
    """Run a comprehension; its targets live in a scope of their own."""
    inner = machine.new_scope(scope)
    exact = len(node.clauses) == 1 and not node.clauses[0][2]
    names = [_GATHERED, *(part.id for target, _, _ in node.clauses for part in ir.parts(target) if isinstance(part, ir.Name))]
    outcomes: Outcomes = []
    for source, after in evaluate.evaluate(machine, node.clauses[0][1], state, scope):
        after.vars[inner, _GATHERED] = Items("list", ())
        known = exact and isinstance(source, Items) and len(source.items) <= SPELLED_OUT
        for end in _over(machine, node, source, node.clauses, after, inner):
            gathered = end.vars[inner, _GATHERED]
            for name in names:
                end.vars.pop((inner, name), None)
            outcomes.append((_result(machine, node, gathered, end, known=known), end))
    return outcomes


def _over(machine: Machine, node: ir.Comprehension, source: Value, clauses: Clauses, state: State, scope: int) -> list[State]:
    (target, _, conditions), rest = clauses[0], clauses[1:]

    def turn(element: Value, begin: State) -> list[State]:
        targets.bind_target(machine, target, element, scope, begin)
        for condition in conditions:
            wanted, begin = evaluate.single(machine, condition, begin, scope)
            if isinstance(wanted, Known) and not wanted.value:
                return [begin]
        if not rest:
            return [_gather(values, end, scope) for values, end in evaluate.many(machine, node.elements, begin, scope)]
        return [
            end for inner, after in evaluate.evaluate(machine, rest[0][1], begin, scope) for end in _over(machine, node, inner, rest, after, scope)
        ]

    if isinstance(source, Generator):
        return generators.iterate(machine, source, state, turn)
    states = [state]
    for number in range(_turns(machine, node, source, outermost=clauses is node.clauses)):
        machine.loop_depth += 1
        states = machine.join([e for s in states for e in turn(elements.element_of(machine, source, number, node.uid, s), s)])
        machine.loop_depth -= 1
    return states


def _turns(machine: Machine, node: ir.Comprehension, source: Value, *, outermost: bool) -> int:
    if outermost and isinstance(source, Items) and len(source.items) <= SPELLED_OUT:
        return len(source.items)
    calling = machine.calling.get(node.uid)
    if calling is None:
        calling = machine.calling[node.uid] = survey.calls_interesting(node, machine.interesting)
    return loops.turns(machine, source) if calling else 1


def _gather(values: tuple[Value, ...], state: State, scope: int) -> State:
    held = state.vars[scope, _GATHERED]
    item = values[0] if len(values) == 1 else Items("tuple", values)
    state.vars[scope, _GATHERED] = Items("list", (*(held.items if isinstance(held, Items) else ()), item))
    return state


def _result(machine: Machine, node: ir.Comprehension, gathered: Value, state: State, *, known: bool) -> Value:
    items = gathered.items if isinstance(gathered, Items) else ()
    pairs = [(i.items[0], i.items[1]) for i in items if isinstance(i, Items) and len(i.items) == 2]
    if node.kind == "DictComp":
        if known and all(isinstance(key, Known) for key, _ in pairs):
            return Table(tuple((key.value, value) for key, value in pairs if isinstance(key, Known)))
        items = tuple(value for _, value in pairs)
    if items and isinstance(items[-1], Derived) and items[-1].kind == "parameter":
        return Derived("parameters", items[-1].source)
    if known and node.kind != "DictComp":
        return Items("set" if node.kind == "SetComp" else "list", items)
    if any(state.oid(item) is not None or isinstance(item, (Derived, Function)) for item in items):
        return Many(items)
    return machine.fresh(node.uid, state)
