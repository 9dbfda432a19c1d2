"""Generators of this file: run by whoever iterates them, in step with what is done to each value."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import functions, statements
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import (
    Generator,
    Items,
    Many,
    Value,
)

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

Outcomes = list[tuple[Value, State]]


_YIELDED = (-1, "yielded")
_SAMPLES = 4

Consumer = Callable[[Value, State], list[State]]
"""Given a value that a generator yields and the path on which it does; gives the paths on which it is asked for the next."""


def iterate(machine: Machine, generator: Generator, state: State, consumer: Consumer) -> list[State]:
    """Run a generator; ``consumer`` is given what it yields, with the path it does so on, and gives the paths to go on with."""
    node = generator.function.node
    if not machine.may_enter(node, functions.DEPTH) or not isinstance(node, ir.Function):
        return consumer(machine.fresh(node.uid, state), state)
    scope = machine.new_scope(generator.function.scope, owner=generator.function.owner, self_value=generator.receiver)
    for name, value in generator.arguments:
        machine.bind(name, value, scope, state)
    if generator.receiver is not None and node.params:
        machine.bind(node.params[0].name, generator.receiver, scope, state)
    machine.entered.add(id(node))
    depths = machine.loop_depth, machine.guard_depth

    def outside(value: Value, then: State) -> list[State]:
        """Run the consumer as what it is: code outside of the generator."""
        inner = machine.stack, machine.consumers, machine.loop_depth, machine.guard_depth
        within, machine.frame = machine.frame, frame
        machine.stack, machine.consumers = inner[0][:depth], inner[1][:outer]
        machine.loop_depth, machine.guard_depth = depths
        try:
            return consumer(value, then)
        finally:
            machine.stack, machine.consumers, machine.loop_depth, machine.guard_depth = inner
            machine.frame = within

    depth, outer, frame = len(machine.stack), len(machine.consumers), machine.frame
    machine.frame = machine.frame_of(node, (generator.receiver, *(value for _, value in generator.arguments)))
    machine.stack.append(node)
    machine.consumers.append(outside)
    machine.guard_depth = 0
    try:
        flow = statements.block(machine, node.body, [state], scope)
    finally:
        machine.stack.pop()
        machine.consumers.pop()
        machine.frame = frame
        machine.loop_depth, machine.guard_depth = depths
    return machine.join([functions.forget(machine, scope, each) for each in (*flow.normal, *(s for _, s in flow.returned))])


def collected(machine: Machine, generator: Generator, state: State) -> Outcomes:
    """What a generator yields, all of it, on each of its paths."""

    def keep(value: Value, then: State) -> list[State]:
        held = then.vars.get(_YIELDED)
        then.vars[_YIELDED] = Items("list", (*(held.items if isinstance(held, Items) else ()), value)[:_SAMPLES])
        return [then]

    before = state.vars.pop(_YIELDED, None)
    outcomes: Outcomes = []
    for after in iterate(machine, generator, state, keep):
        found = after.vars.pop(_YIELDED, Items("list", ()))
        if before is not None:
            after.vars[_YIELDED] = before
        outcomes.append((Many(found.items) if isinstance(found, Items) else found, after))
    return outcomes


def first(machine: Machine, generator: Generator, state: State) -> Outcomes:
    """What a generator yields first; it is left waiting there."""
    outcomes: Outcomes = []

    def take(value: Value, then: State) -> list[State]:
        outcomes.append((value, then))
        return []

    iterate(machine, generator, state, take)
    return outcomes
