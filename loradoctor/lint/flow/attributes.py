"""Attributes: of objects, classes, modules, library values and `super()`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import classes, functions
from loradoctor.lint.flow.facts import Model, Peft
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import (
    Derived,
    Function,
    Method,
    Oid,
    Partial,
    Ref,
    Super,
    Unknown,
    UserClass,
    UserModule,
    Value,
)
from loradoctor.lint.libraries import canonical, method_spec
from loradoctor.lint.libraries.effects import attribute_of

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

Outcomes = list[tuple[Value, State]]

_AROUND = frozenset({"module", "_orig_mod"})
"""What gives the model inside of what parallel training or compilation has put around it: wrappers are not told from their models."""


def attribute(machine: Machine, receiver: Value, name: str, state: State) -> Outcomes:
    """``receiver.name``; a property of this file's classes is entered."""
    oid = state.oid(receiver)
    if oid is not None:
        stored = state.attrs.get((oid, name))
        if stored is not None:
            return [(stored, state)]
        own = _from_class(machine, oid, receiver, name, state)
        if own is not None:
            return own
        facts = state.heap[oid]
        if isinstance(facts, (Model, Peft)) and name in _AROUND and facts.shell is None:
            return [(receiver, state)]
        if method_spec(type(facts).__name__, name) is not None:
            return [(Method(receiver, name), state)]
        return [(attribute_of(receiver, name, state), state)]
    match receiver:
        case Ref(name=dotted):
            return [(Ref(canonical(f"{dotted}.{name}")), state)]
        case UserModule(scope=scope):
            return [(state.vars.get((scope, name)) or Unknown(f"module{scope}.{name}"), state)]
        case UserClass():
            found = classes.find_in_class(receiver, name, state)
            return [(found or Unknown(f"{receiver.node.name}.{name}"), state)]
        case Super(receiver=inner, owner=owner):
            return [(_from_super(inner, owner, name, state), state)]
        case Function(node=node) | Method(function=Function(node=node)):
            return [(Unknown(f"function@{node.uid}.{name}"), state)]
        case Partial(function=function) if name == "func":
            return [(function, state)]
        case Unknown(key=key):
            return [(state.attrs.get((key, name)) or Unknown(f"{key}.{name}"), state)]
        case _:
            return [(attribute_of(receiver, name, state), state)]


def _from_class(machine: Machine, oid: Oid, receiver: Value, name: str, state: State) -> Outcomes | None:
    cls = state.attrs.get((oid, "__class__"))
    if not isinstance(cls, UserClass):
        return None
    found = classes.find_in_class(cls, name, state)
    if not isinstance(found, Function):
        return None if found is None else [(found, state)]
    if isinstance(found.node, ir.Function):
        kinds = {d.id if isinstance(d, ir.Name) else getattr(d, "name", "") for d in found.node.decorators}
        if kinds & {"property", "cached_property"}:
            return functions.enter(machine, found, receiver, {}, state)
        if "staticmethod" in kinds:
            return [(found, state)]
    return [(Method(receiver, name, found), state)]


def _from_super(inner: Value, owner: UserClass, name: str, state: State) -> Value:
    for base in classes.after_super(inner, owner, state):
        if isinstance(base, UserClass):
            found = state.vars.get((base.scope, name))
            if isinstance(found, Function):
                return Method(inner, name, found)
        elif isinstance(base, Ref):
            return Derived("super", inner, f"{base.name}.{name}")
    return Unknown(f"super.{name}")
