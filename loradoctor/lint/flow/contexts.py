"""Context managers: those of libraries, which hand on what they are, and those written in this file, which run around the body."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import classes, evaluate, functions, generators, statements, targets
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import NONE, Function, Generator, Value

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine
    from loradoctor.lint.flow.statements import Flow

Pairs = tuple[tuple[ir.Expr, ir.Expr | None], ...]


def inside(machine: Machine, node: ir.With, items: Pairs, state: State, scope: int) -> Flow:
    """Enter the remaining contexts of a `with` statement and run its body in the last."""
    if not items:
        return statements.block(machine, node.body, [state], scope)
    (context, target), rest = items[0], items[1:]
    result = statements.Flow([])

    def body(value: Value, begin: State) -> list[State]:
        if target is not None:
            targets.store(machine, node, target, value, context, begin, scope)
        step = inside(machine, node, rest, begin, scope)
        result.absorb(step)
        return step.normal

    for value, after in evaluate.evaluate(machine, context, state, scope):
        if isinstance(value, Generator):
            result.normal += generators.iterate(machine, value, after, body)
            continue
        enter, leave = (classes.method_of(value, name, after) for name in ("__enter__", "__exit__"))
        entered = functions.enter(machine, enter, value, {}, after) if enter is not None else [(value, after)]
        for given, begin in entered:
            returned = len(result.returned)
            ends = body(given, begin)
            if leave is None:
                result.normal += ends
                continue
            result.normal += [then for each in ends for _, then in _leave(machine, leave, value, each)]
            result.returned[returned:] = [(v, then) for v, each in result.returned[returned:] for _, then in _leave(machine, leave, value, each)]
    return result


def _leave(machine: Machine, leave: Function, receiver: Value, state: State) -> list[tuple[Value, State]]:
    return functions.enter(machine, leave, receiver, {p.name: NONE for p in leave.node.params[1:]}, state)
