"""Loops: how often a body is run, and what a loop over the parts of a model tells apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import elements, evaluate, statements, survey, targets
from loradoctor.lint.flow.guards import branch
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import (
    NONE,
    Items,
    Value,
)

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine


def for_loop(machine: Machine, node: ir.For, state: State, scope: int) -> statements.Flow:
    """Run a for loop."""
    result = statements.Flow([])
    for iterable, begin in evaluate.evaluate(machine, node.iterable, state, scope):
        states, exits = [begin], []
        for turn in range(turns(machine, iterable)):
            for each in states:
                element = elements.element_of(machine, iterable, turn, node.uid, each)
                targets.store(machine, node, node.target, element, node.iterable, each, scope)
            everything = survey.is_of_a_model(iterable)
            if everything:
                machine.elements.append(f"@{node.uid}")
                machine.element_names.append(survey.names_from(node))
            machine.loop_depth += 1
            step = statements.block(machine, node.body, states, scope)
            machine.loop_depth -= 1
            if everything:
                machine.elements.pop()
                machine.element_names.pop()
            exits += step.broke
            result.returned += step.returned
            states = machine.join((step.normal or step.continued) if everything else step.normal + step.continued)
            if not states:
                break
        result.normal += machine.join(states + exits)
    if node.orelse:
        after = statements.block(machine, node.orelse, result.normal, scope)
        result.normal = after.normal
        result.absorb(after)
    return result


def turns(machine: Machine, iterable: Value) -> int:
    """How often a loop body runs: twice shows what one turn leaves for the next; deep nests once, to stay linear."""
    if isinstance(iterable, Items) and len(iterable.items) <= 1:
        return len(iterable.items)
    return 2 if machine.loop_depth < 2 else 1


def while_loop(machine: Machine, node: ir.While, state: State, scope: int) -> statements.Flow:
    """Run a while loop."""
    result = statements.Flow([])
    states = [state]
    for _ in range(turns(machine, NONE)):
        taken: list[State] = []
        for each in states:
            yes, no = branch(machine, node.test, each, scope)
            taken += yes
            result.normal += no
        if not taken:
            break
        machine.loop_depth += 1
        step = statements.block(machine, node.body, machine.join(taken), scope)
        machine.loop_depth -= 1
        result.normal += step.broke
        result.returned += step.returned
        states = machine.join(step.normal + step.continued)
    result.normal = machine.join(result.normal + states)
    return result


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
