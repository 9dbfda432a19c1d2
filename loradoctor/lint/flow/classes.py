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


ANCESTORS = 40


def lineage(cls: UserClass) -> tuple[Value, ...]:
    """A class and its bases in the order in which attributes are looked up; an order that Python would refuse is taken as written."""
    return _lineage(cls, {})


def _lineage(cls: UserClass, known: dict[int, tuple[Value, ...]]) -> tuple[Value, ...]:
    if id(cls) not in known:
        known[id(cls)] = _merged(cls, [_lineage(b, known) if isinstance(b, UserClass) else (b,) for b in cls.bases if not _same(b, cls)])
    return known[id(cls)]


def _merged(cls: UserClass, lines: list[tuple[Value, ...]]) -> tuple[Value, ...]:
    if len(lines) < 2:
        return (cls, *(value for line in lines for value in line))
    pending: list[list[Value]] = [*map(list, lines), [*cls.bases]]
    order: list[Value] = [cls]
    while pending := [line for line in pending if line]:
        heads = (line[0] for line in pending)
        head = next((h for h in heads if not any(_same(h, later) for line in pending for later in line[1:])), pending[0][0])
        order.append(head)
        pending = [[v for v in line if not _same(v, head)] for line in pending]
    return tuple(order)


def shallow(bases: tuple[Value, ...]) -> tuple[Value, ...]:
    """The bases of a new class; none where it would have more ancestors than any class has: looking through them takes too long."""
    seen: dict[int, UserClass] = {}
    pending = [base for base in bases if isinstance(base, UserClass)]
    while pending and len(seen) <= ANCESTORS:
        cls = pending.pop()
        if id(cls) not in seen:
            seen[id(cls)] = cls
            pending += [base for base in cls.bases if isinstance(base, UserClass)]
    return bases if len(seen) <= ANCESTORS else ()


def _same(one: Value, other: Value) -> bool:
    return one.node is other.node if isinstance(one, UserClass) and isinstance(other, UserClass) else one == other


def find_in_class(cls: UserClass, name: str, state: State) -> Value | None:
    """An attribute of a class or of its bases in this file."""
    found = state.vars.get((cls.scope, name))
    if found is not None or not cls.bases:
        return found
    scopes = (c.scope for c in lineage(cls)[1:] if isinstance(c, UserClass))
    return next((v for s in scopes if (v := state.vars.get((s, name))) is not None), None)


def find_method(cls: UserClass, name: str, state: State) -> Function | None:
    """A method of a class or of its bases in this file."""
    found = find_in_class(cls, name, state)
    return found if isinstance(found, Function) else None


def method_of(value: Value, name: str, state: State) -> Function | None:
    """A method of an object whose class is in this file."""
    oid = state.oid(value)
    cls = state.attrs.get((oid, "__class__")) if oid is not None else None
    return find_method(cls, name, state) if isinstance(cls, UserClass) else None


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
    if node is not None:
        machine.made.add(cls.node.uid)
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
    binding = functions.bind(fields(cls), passed)
    outcomes: Outcomes = []
    for made, after in construct(machine, cls, node, state, None):
        if isinstance(made, Obj):
            after.attrs.update({(made.oid, name): value for name, value in binding.values.items()})
        ready = find_method(cls, "__post_init__", after)
        if ready is None:
            outcomes.append((made, after))
        else:
            outcomes += [(made, then) for _, then in functions.enter(machine, ready, made, {}, after)]
    return outcomes


def fields(cls: UserClass) -> tuple[str, ...]:
    """The fields of a data class, its bases' first."""
    names = [name for part in reversed(lineage(cls)) if isinstance(part, UserClass) for name in part.node.fields]
    return tuple(dict.fromkeys(names))


def bound_super(machine: Machine, scope: int) -> Value:
    """`super()` in the method that a scope belongs to."""
    machine.bind_records()
    here: int | None = scope
    while here is not None:
        place = machine.scopes[here]
        if place.owner is not None and place.self_value is not None:
            return Super(place.self_value, place.owner)
        here = place.parent
    return Unknown("super")


def after_super(inner: Value, owner: UserClass, state: State) -> tuple[Value, ...]:
    """Where `super()` in a method of ``owner`` looks: behind it in the lineage of the object's own class."""
    oid = state.oid(inner)
    cls = state.attrs.get((oid, "__class__")) if oid is not None else inner
    order = lineage(cls) if isinstance(cls, UserClass) else ()
    place = next((n for n, part in enumerate(order) if _same(part, owner)), None)
    return lineage(owner)[1:] if place is None else order[place + 1 :]
