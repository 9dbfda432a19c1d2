"""Methods of lists and dicts whose content is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import functions
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import (
    NONE,
    Items,
    Known,
    Table,
    Value,
)

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

Outcomes = list[tuple[Value, State]]
Passed = tuple[tuple[ir.Arg, Value], ...]

_CHANGING = frozenset({"append", "extend", "update", "insert", "pop", "remove", "clear", "setdefault", "add"})


def call_method(machine: Machine, node: ir.Call, receiver: Table | Items, name: str, passed: Passed, state: State, scope: int) -> Outcomes:
    """A method of a list or dict; one that changes it rebinds the variable it is called on."""
    target = node.func.value if isinstance(node.func, ir.Attr) else None
    if isinstance(receiver, Table) and name in ("get", "pop", "setdefault") and passed and isinstance(passed[0][1], Known):
        found = receiver.get(passed[0][1].value)
        if found is None and receiver.complete:
            found = passed[1][1] if len(passed) > 1 else NONE
        return [(found or machine.fresh(node.uid, state), state)]
    if isinstance(receiver, Table) and name == "items":
        return [(Items("list", tuple(Items("tuple", (Known(k), v)) for k, v in receiver.items)), state)]
    if name in _CHANGING and isinstance(target, ir.Name):
        changed: Value = machine.fresh(node.uid, state, "changed")
        if isinstance(receiver, Table) and name == "update":
            binding = functions.bind((), passed)
            more: tuple[tuple[object, Value], ...] = tuple(binding.values.items())
            for value in binding.positional:
                more += value.items if isinstance(value, Table) else ()
            whole = all(isinstance(v, Table) and v.complete for v in binding.positional) and not binding.open
            changed = Table((*receiver.items, *more), receiver.complete and whole)
        elif isinstance(receiver, Items) and name == "append" and len(passed) == 1 and not machine.loop_depth:
            changed = Items(receiver.kind, (*receiver.items, passed[0][1]))
        machine.bind(target.id, changed, scope, state)
        return [(NONE, state)]
    return [(machine.fresh(node.uid, state), state)]
