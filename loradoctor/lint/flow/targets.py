"""Assignment: to names, attributes, items, and several at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import classes, elements, evaluate, functions
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.trace import Store
from loradoctor.lint.flow.values import (
    NAMESPACE,
    Items,
    Known,
    Many,
    Obj,
    Table,
    Unknown,
    UserClass,
    Value,
)
from loradoctor.lint.libraries.effects import on_store

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine


def store(machine: Machine, node: ir.Stmt, target: ir.Expr, value: Value, expr: ir.Expr, state: State, scope: int) -> None:
    """Bind a target: a name, an attribute, an item, or several by unpacking."""
    match target:
        case ir.Name(id=name):
            machine.bind(name, value, scope, state)
        case ir.Attr(value=base, name=name):
            receiver, _ = evaluate.single(machine, base, state, scope)
            store_attribute(machine, node, receiver, name, value, expr, state)
        case ir.Subscript(value=base, index=index) if index is not None:
            container, _ = evaluate.single(machine, base, state, scope)
            key, _ = evaluate.single(machine, index, state, scope)
            _store_item(machine, node, base, container, key, value, state, scope)
        case ir.Sequence(items=targets):
            _unpack(machine, node, targets, value, expr, state, scope)
        case ir.Star(value=inner):
            store(machine, node, inner, machine.fresh(inner.uid, state), expr, state, scope)


def _unpack(machine: Machine, node: ir.Stmt, targets: tuple[ir.Expr, ...], value: Value, expr: ir.Expr, state: State, scope: int) -> None:
    starred = next((i for i, t in enumerate(targets) if isinstance(t, ir.Star)), None)
    if isinstance(value, Items) and starred is not None and len(value.items) >= len(targets) - 1:
        end = len(value.items) - (len(targets) - starred - 1)
        rest = Items("list", value.items[starred:end])
        value = Items("tuple", (*value.items[:starred], rest, *value.items[end:]))
    for index, target in enumerate(targets):
        part: Value = elements.item_of(machine, value, index, target.uid, state)
        if isinstance(value, Items) and len(value.items) != len(targets):
            part = machine.fresh(target.uid, state)
        store(machine, node, target.value if isinstance(target, ir.Star) else target, part, expr, state, scope)


def bind_target(machine: Machine, target: ir.Expr, value: Value, scope: int, state: State) -> None:
    """Bind the target of a comprehension: a name or several."""
    if isinstance(target, ir.Name):
        machine.bind(target.id, value, scope, state)
    elif isinstance(target, ir.Sequence):
        for index, part in enumerate(target.items):
            bind_target(machine, part, elements.item_of(machine, value, index, part.uid, state), scope, state)


def _store_item(
    machine: Machine, node: ir.Stmt, base: ir.Expr, container: Value, key: Value, value: Value, state: State, scope: int
) -> None:
    """``base[key] = value``."""
    if isinstance(container, Table):
        items = (*container.items, (key.value, value)) if isinstance(key, Known) else container.items
        put_back(machine, base, Table(items, container.complete and isinstance(key, Known)), state, scope)
    elif isinstance(container, (Items, Many)):
        put_back(machine, base, machine.fresh(node.uid, state), state, scope)
    elif isinstance(container, Unknown) and isinstance(key, Known):
        state.attrs[container.key, f"[{key.value!r}]"] = value
    elif container == NAMESPACE and isinstance(key, Known):
        machine.bind(str(key.value), value, machine.root(scope), state)


def put_back(machine: Machine, expr: ir.Expr, value: Value, state: State, scope: int) -> None:
    """A container was changed in place: whatever it was read from holds the changed one now."""
    match expr:
        case ir.Name(id=name):
            machine.bind(name, value, machine.home(name, scope, state), state)
        case ir.Attr(value=base, name=name):
            receiver, _ = evaluate.single(machine, base, state, scope)
            oid = receiver.key if isinstance(receiver, Unknown) else state.oid(receiver)
            if oid is not None:
                state.attrs[oid, name] = value
        case ir.Subscript(value=base, index=ir.Const(value=key)):
            outer, _ = evaluate.single(machine, base, state, scope)
            if isinstance(outer, Table):
                put_back(machine, base, Table((*outer.items, (key, value)), outer.complete), state, scope)


def store_attribute(machine: Machine, node: ir.Stmt, receiver: Value, name: str, value: Value, expr: ir.Expr, state: State) -> None:
    """``receiver.name = value``."""
    machine.trace.stored(Store(node, receiver, name, value, expr, {}), state.heap.copy(), {})
    on_store(machine, node, receiver, name, value, state)
    setter = classes.method_of(receiver, f"{name}.setter", state)
    if setter is not None and setter.node in machine.stack:
        machine.give_up()
    if setter is not None and setter.node not in machine.stack and len(setter.node.params) > 1:
        for _, after in functions.enter(machine, setter, receiver, {setter.node.params[1].name: value}, state)[:1]:
            state.become(after)
    elif isinstance(receiver, Obj):
        state.attrs[receiver.oid, name] = value
    elif isinstance(receiver, Unknown):
        state.attrs[receiver.key, name] = value
    elif isinstance(receiver, UserClass):
        state.vars[receiver.scope, name] = value
