"""Assignment: to names, attributes, items, and several at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import elements, evaluate
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.trace import Store
from loradoctor.lint.flow.values import (
    Items,
    Known,
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
        case ir.Subscript(value=ir.Name(id=name), index=index) if index is not None:
            table = machine.lookup(name, scope, state)
            key, _ = evaluate.single(machine, index, state, scope)
            if isinstance(table, Table):
                known = isinstance(key, Known)
                items = (*table.items, (key.value, value)) if isinstance(key, Known) else table.items
                machine.bind(name, Table(items, table.complete and known), scope, state)
            elif isinstance(table, Items):
                machine.bind(name, machine.fresh(node.uid, state), scope, state)
        case ir.Sequence(items=targets):
            _unpack(machine, node, targets, value, expr, state, scope)
        case ir.Star(value=inner):
            store(machine, node, inner, machine.fresh(inner.uid, state), expr, state, scope)


def _unpack(machine: Machine, node: ir.Stmt, targets: tuple[ir.Expr, ...], value: Value, expr: ir.Expr, state: State, scope: int) -> None:
    plain = not any(isinstance(t, ir.Star) for t in targets)
    for index, target in enumerate(targets):
        part: Value = elements.item_of(machine, value, index, target.uid, state)
        if isinstance(value, Items) and (not plain or len(value.items) != len(targets)):
            part = machine.fresh(target.uid, state)
        store(machine, node, target, part, expr, state, scope)


def store_attribute(machine: Machine, node: ir.Stmt, receiver: Value, name: str, value: Value, expr: ir.Expr, state: State) -> None:
    """``receiver.name = value``."""
    machine.trace.stores.append(Store(node, receiver, name, value, expr, dict(state.heap)))
    on_store(machine, node, receiver, name, value, state)
    if isinstance(receiver, Obj):
        state.attrs[receiver.oid, name] = value
    elif isinstance(receiver, Unknown):
        state.attrs[receiver.key, name] = value
    elif isinstance(receiver, UserClass):
        state.vars[receiver.scope, name] = value
