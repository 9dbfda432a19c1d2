"""Loops: how often a body is run, and what a loop over the parts of a model tells apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import elements, evaluate, generators, statements, survey, targets
from loradoctor.lint.flow.guards import branch
from loradoctor.lint.flow.state import State, outline
from loradoctor.lint.flow.values import NONE, Generator, Items, Value

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine
    from loradoctor.lint.flow.statements import Flow

MOST_TURNS = 4
"""A variable that trails another by more turns than this has not been seen."""


def for_loop(machine: Machine, node: ir.For, state: State, scope: int) -> Flow:
    """Run a for loop; ``break`` goes past its ``else``."""
    result = statements.Flow([])
    exits: list[State] = []
    for iterable, begin in evaluate.evaluate(machine, node.iterable, state, scope):
        everything = survey.is_of_a_model(iterable)
        if everything:
            machine.elements.append(f"@{node.uid}")
            machine.element_names.append(survey.names_from(node))
        if isinstance(iterable, Generator):
            ended = _over_generator(machine, node, iterable, begin, scope, result)
        else:
            ended = _over_elements(machine, node, iterable, begin, scope, result)
        if everything:
            machine.elements.pop()
            machine.element_names.pop()
        exits += result.broke
        result.broke = []
        result.normal += ended
    return _otherwise(machine, node, result, exits, scope)


def _over_elements(machine: Machine, node: ir.For, iterable: Value, begin: State, scope: int, result: Flow) -> list[State]:
    everything = survey.is_of_a_model(iterable)
    states = [begin]
    seen: set[object] = set()
    for turn in range(len(iterable.items) if isinstance(iterable, Items) and len(iterable.items) < MOST_TURNS else MOST_TURNS):
        settled = _settled(machine, iterable, states, seen)
        if turn >= turns(machine, iterable) and settled:
            break
        for each in states:
            element = elements.element_of(machine, iterable, turn, node.uid, each)
            targets.store(machine, node, node.target, element, node.iterable, each, scope)
        machine.loop_depth += 1
        step = statements.block(machine, node.body, states, scope)
        machine.loop_depth -= 1
        result.broke += step.broke
        result.returned += step.returned
        result.raised += step.raised
        states = machine.join((step.normal or step.continued) if everything else step.normal + step.continued)
        if not states:
            break
    return states


def _settled(machine: Machine, iterable: Value, states: list[State], seen: set[object]) -> bool:
    """Whether another turn would show nothing new: the models that variables hold are as after the turn before."""
    if machine.loop_depth or turns(machine, iterable) < 2 or survey.is_of_a_model(iterable):
        return True
    now = {outline(state) for state in states}
    known = now <= seen
    seen |= now
    return known


def _over_generator(machine: Machine, node: ir.For, generator: Generator, begin: State, scope: int, result: Flow) -> list[State]:
    def turn(value: Value, state: State) -> list[State]:
        targets.store(machine, node, node.target, value, node.iterable, state, scope)
        machine.loop_depth += 1
        step = statements.block(machine, node.body, [state], scope)
        machine.loop_depth -= 1
        result.broke += step.broke
        result.returned += step.returned
        result.raised += step.raised
        return machine.join(step.normal + step.continued)

    return generators.iterate(machine, generator, begin, turn)


def _otherwise(machine: Machine, node: ir.For | ir.While, result: Flow, exits: list[State], scope: int) -> Flow:
    """The ``else`` of a loop, and where all paths go on."""
    result.normal = machine.join(result.normal)
    if node.orelse:
        after = statements.block(machine, node.orelse, result.normal, scope)
        result.normal = after.normal
        result.absorb(after)
    result.normal = machine.join(result.normal + exits)
    return result


def turns(machine: Machine, iterable: Value) -> int:
    """How often a loop body runs: twice shows what one turn leaves for the next; deep nests once, to stay linear."""
    if isinstance(iterable, Items) and len(iterable.items) <= 1:
        return len(iterable.items)
    return 2 if machine.loop_depth < 2 else 1


def while_loop(machine: Machine, node: ir.While, state: State, scope: int) -> Flow:
    """Run a while loop."""
    result = statements.Flow([])
    exits: list[State] = []
    states = [state]
    for _ in range(turns(machine, NONE)):
        taken: list[State] = []
        for each in states:
            yes, no = branch(machine, node.test, each, scope)
            taken += yes
            result.normal += no
        if not taken:
            states = []
            break
        machine.loop_depth += 1
        step = statements.block(machine, node.body, machine.join(taken), scope)
        machine.loop_depth -= 1
        exits += step.broke
        result.returned += step.returned
        result.raised += step.raised
        states = machine.join(step.normal + step.continued)
    endless = isinstance(node.test, ir.Const) and bool(node.test.value)
    if not (endless and (exits or result.returned)):
        result.normal += states
    return _otherwise(machine, node, result, exits, scope)


def tests_element(machine: Machine, test: ir.Expr, states: Iterable[State], before: set[str]) -> bool:
    """Whether a test tells elements apart: by the conditions that it left behind, or by the names it uses."""
    if not machine.elements:
        return False
    return any(about_element(machine, s.conds.keys() - before) for s in states) or any(
        isinstance(part, ir.Name) and part.id in names for names in machine.element_names for part in ir.parts(test)
    )


def about_element(machine: Machine, conditions: Iterable[str]) -> bool:
    """Whether a condition is about the element of a loop over parameters, of which there are always both kinds."""
    return any(element in condition for condition in conditions for element in machine.elements)
