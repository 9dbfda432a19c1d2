"""Calls: what is called, with which arguments, and what that does to the path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import callbacks, classes, conditions, containers, functions, predicates
from loradoctor.lint.flow import evaluate as expressions
from loradoctor.lint.flow.attributes import attribute
from loradoctor.lint.flow.facts import Instance, Model, Peft
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.trace import Visit
from loradoctor.lint.flow.values import (
    NONE,
    Derived,
    Function,
    Items,
    Known,
    Many,
    Method,
    Obj,
    Oid,
    Partial,
    Ref,
    Super,
    Table,
    Template,
    Unknown,
    UserClass,
    UserModule,
    Value,
)
from loradoctor.lint.libraries import function_spec, is_harmless, method_spec
from loradoctor.lint.libraries.effects import Context, Spec

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

Outcomes = list[tuple[Value, State]]
Passed = tuple[tuple[ir.Arg, Value], ...]


def call(machine: Machine, node: ir.Call, state: State, scope: int) -> Outcomes:
    """Evaluate a call: callee, arguments in order, then what it does."""
    outcomes: Outcomes = []
    func = node.func
    receivers = expressions.evaluate(machine, func.value if isinstance(func, ir.Attr) else func, state, scope)
    for first, after in receivers:
        for values, then in expressions.many(machine, [a.value for a in node.args], after, scope):
            passed = tuple(zip(node.args, values, strict=True))
            if isinstance(func, ir.Attr):
                outcomes += _call_method(machine, node, first, func.name, passed, then, scope)
            elif first == _SUPER:
                outcomes.append((classes.bound_super(machine, scope), then))
            else:
                outcomes += call_value(machine, node, first, passed, then)
    return outcomes


_SUPER = Ref("builtins.super")


def call_value(machine: Machine, node: ir.Call, callee: Value, passed: Passed, state: State) -> Outcomes:
    """Call a value."""
    match callee:
        case Function():
            return functions.enter(machine, callee, None, functions.bind_own(machine, callee, passed, 0, state), state)
        case Method(receiver=receiver, function=Function() as function) if _takes_all(function):
            first = (ir.Arg(node, None, "", node.ref), receiver)
            return functions.enter(machine, function, None, functions.bind_own(machine, function, (first, *passed), 0, state), state)
        case Method(receiver=receiver, function=Function() as function):
            return functions.enter(machine, function, receiver, functions.bind_own(machine, function, passed, 1, state), state)
        case UserClass():
            return classes.construct_call(machine, callee, node, passed, state)
        case Method(receiver=receiver, name=name):
            return _library_method(machine, node, receiver, name, passed, state)
        case Partial(function=function, passed=before):
            return call_value(machine, node, function, (*before, *passed), state)
        case Ref(name=name):
            given = callbacks.call(machine, node, name, passed, state)
            return given if given is not None else _call_library(machine, node, name, passed, state)
        case Derived(kind="super", source=inner, note=dotted):
            return _call_super(machine, node, inner, dotted, passed, state)
        case _:
            oid = state.oid(callee)
            own = classes.method_of(callee, "__call__", state)
            if own is not None:
                return functions.enter(machine, own, callee, functions.bind_own(machine, own, passed, 1, state), state)
            spec = method_spec(type(state.heap[oid]).__name__, "__call__") if oid is not None else None
            if spec is not None:
                return apply(machine, node, spec, "__call__", callee, passed, state)
            foreign = isinstance(callee, Unknown) and callee.key.startswith("object@")
            return _unknown(machine, node, passed, state, "", "object" if foreign else "value")


def _call_method(machine: Machine, node: ir.Call, receiver: Value, name: str, passed: Passed, state: State, scope: int) -> Outcomes:
    kind = _kind(receiver, state)
    if isinstance(receiver, (Ref, UserClass, UserModule, Super)) or kind == "object":
        outcomes: Outcomes = []
        for callee, after in attribute(machine, receiver, name, state):
            if isinstance(callee, (Function, Method, Partial, UserClass, Ref)) or (isinstance(callee, Derived) and callee.kind == "super"):
                bound = isinstance(callee, Function) and isinstance(receiver, UserClass) and _is_classmethod(callee)
                target = Method(receiver, name, callee) if bound and isinstance(callee, Function) else callee
                outcomes += call_value(machine, node, target, passed, after)
            else:
                outcomes += _library_method(machine, node, receiver, name, passed, after)
        return outcomes
    if isinstance(receiver, (Table, Items, Many)) and isinstance(node.func, ir.Attr):
        return containers.call_method(machine, node, receiver, name, passed, state, scope)
    return _library_method(machine, node, receiver, name, passed, state)


def _takes_all(function: Function) -> bool:
    """Whether a function has no name for its receiver: what a decorator puts in the place of a method."""
    return bool(function.node.params) and function.node.params[0].star == "*"


def _is_classmethod(function: Function) -> bool:
    return isinstance(function.node, ir.Function) and any(
        isinstance(d, ir.Name) and d.id == "classmethod" for d in function.node.decorators
    )


def _kind(receiver: Value, state: State) -> str:
    """The kind under which a receiver's methods are listed."""
    if state.oid(receiver) is not None:
        return "object"
    return f"Derived:{receiver.kind}" if isinstance(receiver, Derived) else type(receiver).__name__


def _library_method(machine: Machine, node: ir.Call, receiver: Value, name: str, passed: Passed, state: State) -> Outcomes:
    facts = state.facts(receiver)
    kind = type(facts).__name__ if facts is not None else _kind(receiver, state)
    spec = method_spec(kind, name)
    if spec is not None:
        return apply(machine, node, spec, name, receiver, passed, state)
    if isinstance(facts, Instance) and "." in facts.cls:
        return _call_library(machine, node, f"{facts.cls}.{name}", passed, state, receiver)
    if isinstance(facts, (Model, Peft)) and not passed:
        return [(Unknown(f"{state.oid(receiver)}.{name}()"), state)]  # a part of the model, most likely
    if isinstance(receiver, Unknown) and (same := predicates.same_answer(receiver.key, name, passed)) is not None:
        return [(state.attrs.get((receiver.key, same.key.removeprefix(receiver.key))) or same, state)]
    harmless = facts is not None or isinstance(receiver, (Derived, Known, Template, Function))
    foreign = isinstance(receiver, Unknown) and receiver.key.startswith("object@")
    return _unknown(machine, node, passed, state, name if harmless else "", "object" if foreign else "value")


def _call_library(machine: Machine, node: ir.Call, name: str, passed: Passed, state: State, receiver: Value | None = None) -> Outcomes:
    spec = function_spec(name)
    if spec is not None:
        return apply(machine, node, spec, name, receiver, passed, state)
    if is_harmless(name):
        last = name.rpartition(".")[2]
        if (same := predicates.same_answer(name, "", passed)) is not None:
            return [(same, state)]
        if last[:1].isupper():
            return [(state.new(node.uid, Instance(node, name)), state)]
        return [(machine.fresh(node.uid, state), state)]
    if (same := predicates.same_answer(name, "", passed)) is not None:
        return [(same, state)]
    return _unknown(machine, node, passed, state, "", "object" if name.rpartition(".")[2][:1].isupper() else "value")


def _call_super(machine: Machine, node: ir.Call, inner: Value, dotted: str, passed: Passed, state: State) -> Outcomes:
    cls, _, name = dotted.rpartition(".")
    if name == "__init__":
        spec = function_spec(cls)
        if spec is not None:
            return apply(machine, node, spec, cls, inner, passed, state, into=inner)
        return [(NONE, state)]
    return _library_method(machine, node, inner, name, passed, state)


def apply(
    machine: Machine,
    node: ir.Call,
    spec: Spec,
    name: str,
    receiver: Value | None,
    passed: Passed,
    state: State,
    into: Value | None = None,
) -> Outcomes:
    """Run a library's effect and record the visit."""
    binding = functions.bind(spec.params, passed)
    seen = spec.recorded and not machine.expecting
    heap = state.heap.copy() if seen else {}
    context = Context(machine, node, name, receiver, binding, state, into)
    result = spec.effect(context) if spec.effect else None
    if result is None:
        result = machine.fresh(node.uid, state)
    if seen:
        machine.trace.saw(Visit(node, name, receiver, binding, {}, result, 0), heap, {})
    return [(result, state)]


# -- what is out of sight


def _unknown(machine: Machine, node: ir.Call, passed: Passed, state: State, harmless: str, hint: str = "value") -> Outcomes:
    """A call into code that is not seen: it may have changed any model it was given."""
    if not harmless:
        for _, value in passed:
            for oid in _objects(value, state):
                state.change(oid, touched=node)
                machine.trace.event("touched", oid, node)
    return [(machine.fresh(node.uid, state, hint), state)]


def _objects(value: Value, state: State) -> list[Oid]:
    if isinstance(value, (Items, Many)):
        return [o for item in value.items for o in _objects(item, state)]
    if isinstance(value, Table):
        return [o for _, item in value.items for o in _objects(item, state)]
    oid = state.oid(value)
    return [] if oid is None else [oid]


def truth(value: Value, state: State) -> bool | None:
    """Whether a value is true, if that is certain."""
    match value:
        case Known(value=known):
            return bool(known)
        case Items(items=items):
            return bool(items)
        case Unknown(key=key):
            return False if state.conds.get(f"{key} is None") else conditions.holds(key, state)
        case Obj() | Ref() | Function() | UserClass() | Method() | Partial():
            return True
        case _:
            return None
