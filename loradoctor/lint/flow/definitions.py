"""Definitions of functions and classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import calls, classes, evaluate, statements
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import (
    Function,
    Partial,
    UserClass,
    Value,
)

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine
    from loradoctor.lint.flow.statements import Flow

Outcomes = list[tuple[Value, State]]


def function(machine: Machine, node: ir.Function, state: State, scope: int) -> Flow:
    """Define a function, under its decorators."""
    here = machine.scopes[scope]
    value = Function(node, scope, here.owner if here.is_class else None)
    if node.uid not in machine.defined:
        machine.defined.add(node.uid)
        machine.functions.append((value, here.owner if here.is_class else None))
    kept: Value = value
    for decorator in reversed(node.decorators):
        kept, state = _decorated(machine, decorator, kept, state, scope)
    setter = here.is_class and any(isinstance(d, ir.Attr) and d.name in ("setter", "deleter") for d in node.decorators)
    machine.bind(f"{node.name}.setter" if setter else node.name, kept, scope, state)
    return statements.Flow([state])


def _decorated(machine: Machine, decorator: ir.Expr, function: Value, state: State, scope: int) -> tuple[Value, State]:
    """What is left of a function under a decorator: what one of this file makes of it; any other is taken to keep it."""
    applied, state = evaluate.single(machine, decorator, state, scope)
    if isinstance(applied, Function) and applied.node in machine.stack:
        machine.give_up()
    if not isinstance(applied, Function) or applied.node in machine.stack:
        return function, state
    call = ir.Call(decorator.uid, decorator.ref, decorator, ())
    outcomes = calls.call_value(machine, call, applied, ((ir.Arg(decorator, None, "", decorator.ref), function),), state)
    made, after = outcomes[0] if outcomes else (function, state)
    if isinstance(made, Function) and isinstance(function, Function) and machine.worth_entering(function):
        machine.wrappers.add(made.node.uid)
    return (made if isinstance(made, (Function, Partial)) else function), after


def class_(machine: Machine, node: ir.Class, state: State, scope: int) -> Flow:
    """Define a class: run its body in a scope of its own."""
    bases = tuple(evaluate.single(machine, b.value, state, scope)[0] for b in node.bases if b.name is None)
    inner = machine.new_scope(scope, is_class=True)
    value = UserClass(node, inner, classes.shallow(bases))
    machine.scopes[inner].owner = value
    if node.uid not in machine.defined:
        machine.defined.add(node.uid)
        machine.classes.append(value)
    flow = statements.block(machine, node.body, [state], inner)
    for after in flow.normal:
        machine.bind(node.name, value, scope, after)
    return statements.Flow(flow.normal)
