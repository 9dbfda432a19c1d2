"""Classes of this file: looking up what they define, and making objects of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import calls, functions
from loradoctor.lint.flow.facts import Instance
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.trace import Binding
from loradoctor.lint.flow.values import (
    Function,
    Obj,
    Ref,
    Super,
    Unknown,
    UserClass,
    Value,
)
from loradoctor.lint.libraries import function_spec
from loradoctor.lint.libraries.effects import Context

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

Outcomes = list[tuple[Value, State]]
Passed = tuple[tuple[ir.Arg, Value], ...]


def find_in_class(cls: UserClass, name: str, state: State) -> Value | None:
    """An attribute of a class or of its bases in this file."""
    seen: list[UserClass] = []
    pending: list[Value] = [cls]
    while pending:
        current = pending.pop(0)
        if not isinstance(current, UserClass) or any(current.node is s.node for s in seen):
            continue
        seen.append(current)
        found = state.vars.get((current.scope, name))
        if found is not None:
            return found
        pending += current.bases
    return None


def find_method(cls: UserClass, name: str, state: State) -> Function | None:
    """A method of a class or of its bases in this file."""
    found = find_in_class(cls, name, state)
    return found if isinstance(found, Function) else None


def library_base(cls: UserClass) -> str | None:
    """The first base of a class that is not of this file."""
    for base in cls.bases:
        if isinstance(base, Ref):
            return base.name
        if isinstance(base, UserClass):
            found = library_base(base)
            if found:
                return found
    return None


def construct(machine: Machine, cls: UserClass, node: ir.Call | None, state: State, arguments: Mapping[str, Value] | None) -> Outcomes:
    """An object of a class of this file, after its ``__init__`` ran with ``arguments``."""
    base = library_base(cls)
    obj = state.new(node.uid if node else cls.node.uid, Instance(node or cls.node, f"{cls.node.name}"))
    state.attrs[obj.oid, "__class__"] = cls
    initialise = find_method(cls, "__init__", state)
    if initialise is not None:
        return [(obj, after) for _, after in functions.enter(machine, initialise, obj, arguments or {}, state)]
    spec = function_spec(base) if base else None
    if spec is not None and node is not None and arguments is not None:
        binding = Binding(arguments)
        Context(machine, node, base or "", obj, binding, state, obj).run(spec)
    return [(obj, state)]


def construct_call(machine: Machine, cls: UserClass, node: ir.Call, passed: Passed, state: State) -> Outcomes:
    """A call of a class of this file."""
    initialise = find_method(cls, "__init__", state)
    if initialise is not None:
        return construct(machine, cls, node, state, functions.bind_own(machine, initialise, passed, 1, state))
    base = library_base(cls)
    spec = function_spec(base) if base else None
    if spec is not None and base is not None:
        obj = state.new(node.uid, Instance(node, cls.node.name))
        state.attrs[obj.oid, "__class__"] = cls
        calls.apply(machine, node, spec, base, obj, passed, state, into=obj)
        return [(obj, state)]
    binding = functions.bind(_fields(cls), passed)
    outcomes = construct(machine, cls, node, state, None)
    for made, after in outcomes:
        for name, value in binding.values.items():
            if isinstance(made, Obj):
                after.attrs[made.oid, name] = value
    return outcomes


def _fields(cls: UserClass) -> tuple[str, ...]:
    return tuple(t.id for s in cls.node.body if isinstance(s, ir.Assign) for t in s.targets if isinstance(t, ir.Name))


def bound_super(machine: Machine) -> Value:
    """`super()` in the method that is running."""
    for scope in reversed(machine.scopes.values()):
        if scope.owner is not None and scope.self_value is not None:
            return Super(scope.self_value, scope.owner)
    return Unknown("super")
