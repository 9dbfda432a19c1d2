"""Methods of lists and dicts of which something is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import functions, targets
from loradoctor.lint.flow.guards import fork_on
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import LARGEST, NONE, Function, Items, Known, Many, Method, Ref, Table, Unknown, UserClass, Value

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

Outcomes = list[tuple[Value, State]]
Passed = tuple[tuple[ir.Arg, Value], ...]
Container = Table | Items | Many

_CHANGING = frozenset({"append", "extend", "update", "insert", "pop", "popitem", "remove", "clear", "setdefault", "add", "sort", "reverse"})
_CALLABLE = (Function, UserClass, Ref, Method)
_SAMPLES = 4


def call_method(machine: Machine, node: ir.Call, receiver: Container, name: str, passed: Passed, state: State, scope: int) -> Outcomes:
    """A method of a list or dict; one that changes it puts the changed one back where it was read from."""
    if isinstance(receiver, Table) and name in ("get", "pop", "setdefault") and passed:
        default = passed[1][1] if len(passed) > 1 else NONE
        if isinstance(passed[0][1], Known):
            found = receiver.get(passed[0][1].value)
            if found is None and receiver.complete:
                found = default
            return [(found or machine.fresh(node.uid, state), state)]
        return choose(machine, receiver, passed[0][1], node.uid, state, default)
    if isinstance(receiver, Table) and name in ("items", "values", "keys", "copy"):
        return [(_view(machine, receiver, name, node, state), state)]
    if name in _CHANGING and isinstance(node.func, ir.Attr):
        changed = _changed(machine, node, receiver, name, passed, state)
        targets.put_back(machine, node.func.value, changed, state, scope)
        return [(NONE if name != "pop" else machine.fresh(node.uid, state), state)]
    return [(machine.fresh(node.uid, state), state)]


def choose(machine: Machine, table: Table, key: Value, uid: int, state: State, default: Value | None = None) -> Outcomes:
    """``table[key]`` for a key that is not known: a table of functions or classes is followed entry by entry."""
    entries = dict(table.items)
    if not isinstance(key, Unknown) or not 0 < len(entries) <= _SAMPLES or not all(isinstance(v, _CALLABLE) for v in entries.values()):
        return [(machine.fresh(uid, state), state)]
    outcomes: Outcomes = []
    left = [state]
    for name, value in entries.items():
        ways = [fork_on(key, Known(name), each) for each in left]
        outcomes += [(value, each) for yes, _ in ways for each in yes]
        left = [each for _, no in ways for each in no]
    if default is not None:
        outcomes += [(default, each) for each in left]
    return outcomes or [(machine.fresh(uid, state), state)]


def _view(machine: Machine, table: Table, name: str, node: ir.Call, state: State) -> Value:
    if name == "copy":
        return table
    entries = dict(table.items)
    views = {"items": tuple(Items("tuple", (Known(k), v)) for k, v in entries.items()), "values": tuple(entries.values())}
    items: tuple[Value, ...] = views.get(name, tuple(Known(k) for k in entries))
    if table.complete:
        return Items("list", items)
    return Many(items) if items else machine.fresh(node.uid, state)


def _changed(machine: Machine, node: ir.Call, receiver: Container, name: str, passed: Passed, state: State) -> Value:
    if isinstance(receiver, Table) and name == "update":
        binding = functions.bind((), passed)
        more: tuple[tuple[object, Value], ...] = tuple(binding.values.items())
        for value in binding.positional:
            more += value.items if isinstance(value, Table) else ()
        whole = all(isinstance(v, Table) and v.complete for v in binding.positional) and not binding.open
        if len(receiver.items) + len(more) > LARGEST:
            return Table(receiver.items, complete=False)
        return Table((*receiver.items, *more), receiver.complete and whole)
    if isinstance(receiver, (Items, Many)) and name in ("append", "add") and len(passed) == 1:
        items = (*receiver.items, passed[0][1])
        if isinstance(receiver, Items) and not machine.loop_depth and len(items) <= LARGEST:
            return Items(receiver.kind, items)
        return Many(items[-_SAMPLES:])
    if isinstance(receiver, (Items, Many)) and name == "extend" and len(passed) == 1 and isinstance(passed[0][1], (Items, Many)):
        items = (*receiver.items, *passed[0][1].items)
        exact = isinstance(receiver, Items) and isinstance(passed[0][1], Items) and not machine.loop_depth and len(items) <= LARGEST
        return Items("list", items) if exact else Many(items[-_SAMPLES:])
    if isinstance(receiver, (Items, Many)) and name in ("sort", "reverse"):
        return Many(receiver.items) if receiver.items else receiver
    return machine.fresh(node.uid, state, "changed")
