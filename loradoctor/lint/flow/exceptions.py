"""`try`: which handler gets what is raised, and what runs on every way out."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import statements
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import (
    Value,
)

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine
    from loradoctor.lint.flow.statements import Flow

Outcomes = list[tuple[Value, State]]


def attempt(machine: Machine, node: ir.Try, state: State, scope: int) -> Flow:
    """Run a `try` statement: its handlers go on from where it began, or from where something was raised."""
    before = state.fork()
    flow = statements.block(machine, node.body, [state], scope)
    thrown, flow.raised = flow.raised, []
    if node.orelse:
        after = statements.block(machine, node.orelse, flow.normal, scope)
        flow.normal = after.normal
        flow.absorb(after)
    machine.guard_depth += 1
    for handler in node.handlers:
        mine = [each for name, each in thrown if _catches(handler, name)]
        thrown = [(name, each) for name, each in thrown if not _catches(handler, name)]
        caught = machine.join([before.fork(), *mine])
        for each in caught:
            if handler.name:
                machine.bind(handler.name, machine.fresh(node.uid, each, "error"), scope, each)
        recovered = statements.block(machine, handler.body, caught, scope)
        flow.normal += recovered.normal
        flow.absorb(recovered)
    machine.guard_depth -= 1
    flow.raised += thrown
    return _finally(machine, node.final, flow, scope) if node.final else flow


def _catches(handler: ir.Handler, name: str) -> bool:
    """Whether an `except` clause catches what is raised by this name."""
    if not handler.catches or name in handler.catches or not name:
        return True
    kind = getattr(builtins, name, Exception)
    kinds = [getattr(builtins, caught, None) for caught in handler.catches]
    return any(isinstance(k, type) and isinstance(kind, type) and issubclass(kind, k) for k in kinds)


def _finally(machine: Machine, body: Sequence[ir.Stmt], flow: Flow, scope: int) -> Flow:
    """Run a `finally` on every way out of its `try`."""
    last = statements.block(machine, body, machine.join(flow.normal), scope)
    for value, state in flow.returned:
        after = statements.block(machine, body, [state], scope)
        last.absorb(after)
        last.returned += [(value, each) for each in after.normal]
    for name, state in flow.raised:
        after = statements.block(machine, body, [state], scope)
        last.absorb(after)
        last.raised += [(name, each) for each in after.normal]
    for left, kept in ((flow.broke, last.broke), (flow.continued, last.continued)):
        if left:
            after = statements.block(machine, body, machine.join(left), scope)
            last.absorb(after)
            kept.extend(after.normal)
    return last
