"""Calls: what is called, with which arguments, and what that does to the path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import evaluate as expressions
from loradoctor.lint.flow.facts import Instance, Model, Peft
from loradoctor.lint.flow.state import State, merge_equal
from loradoctor.lint.flow.trace import Binding, Visit
from loradoctor.lint.flow.values import (
    NONE,
    Derived,
    Function,
    Items,
    Known,
    Method,
    Obj,
    Oid,
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

DEPTH = 12
"""How deep calls of this file's own functions are followed."""
RESULTS = 6
"""How many different outcomes of one call are kept apart."""


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
            else:
                outcomes += _call_value(machine, node, first, passed, then)
    return outcomes


def _call_value(machine: Machine, node: ir.Call, callee: Value, passed: Passed, state: State) -> Outcomes:
    match callee:
        case Function():
            return enter(machine, callee, None, _bind_own(machine, callee, passed, 0, state), state)
        case Method(receiver=receiver, function=Function() as function):
            return enter(machine, function, receiver, _bind_own(machine, function, passed, 1, state), state)
        case UserClass():
            return _construct_call(machine, callee, node, passed, state)
        case Ref(name="builtins.super"):
            return [(_super(machine), state)]
        case Ref(name=name):
            return _call_library(machine, node, name, passed, state)
        case Derived(kind="super", source=inner, note=dotted):
            return _call_super(machine, node, inner, dotted, passed, state)
        case _:
            oid = state.oid(callee)
            spec = method_spec(type(state.heap[oid]).__name__, "__call__") if oid is not None else None
            if spec is not None:
                return _apply(machine, node, spec, "__call__", callee, passed, state)
            foreign = isinstance(callee, Unknown) and callee.key.startswith("object@")
            return _unknown(machine, node, passed, state, "", "object" if foreign else "value")


def _call_method(machine: Machine, node: ir.Call, receiver: Value, name: str, passed: Passed, state: State, scope: int) -> Outcomes:
    kind = _kind(receiver, state)
    if isinstance(receiver, (Ref, UserClass, UserModule, Super)) or kind == "object":
        outcomes: Outcomes = []
        for callee, after in expressions.attribute(machine, receiver, name, state):
            if isinstance(callee, (Function, Method, UserClass, Ref)) or (isinstance(callee, Derived) and callee.kind == "super"):
                bound = isinstance(callee, Function) and isinstance(receiver, UserClass) and _is_classmethod(callee)
                target = Method(receiver, name, callee) if bound and isinstance(callee, Function) else callee
                outcomes += _call_value(machine, node, target, passed, after)
            else:
                outcomes += _library_method(machine, node, receiver, name, passed, after)
        return outcomes
    if isinstance(receiver, (Table, Items)) and isinstance(node.func, ir.Attr):
        return _container_method(machine, node, receiver, name, passed, state, scope)
    return _library_method(machine, node, receiver, name, passed, state)


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
        return _apply(machine, node, spec, name, receiver, passed, state)
    if isinstance(facts, Instance) and "." in facts.cls:
        return _call_library(machine, node, f"{facts.cls}.{name}", passed, state, receiver)
    if isinstance(facts, (Model, Peft)) and not passed:
        return [(Unknown(f"{state.oid(receiver)}.{name}()"), state)]  # a part of the model, most likely
    harmless = facts is not None or isinstance(receiver, (Derived, Known, Template, Function))
    foreign = isinstance(receiver, Unknown) and receiver.key.startswith("object@")
    return _unknown(machine, node, passed, state, name if harmless else "", "object" if foreign else "value")


def _call_library(machine: Machine, node: ir.Call, name: str, passed: Passed, state: State, receiver: Value | None = None) -> Outcomes:
    spec = function_spec(name)
    if spec is not None:
        return _apply(machine, node, spec, name, receiver, passed, state)
    if is_harmless(name):
        last = name.rpartition(".")[2]
        if last[:1].isupper():
            return [(state.new(node.uid, Instance(node, name)), state)]
        return [(machine.fresh(node.uid, state), state)]
    return _unknown(machine, node, passed, state, "", "object" if name.rpartition(".")[2][:1].isupper() else "value")


def _call_super(machine: Machine, node: ir.Call, inner: Value, dotted: str, passed: Passed, state: State) -> Outcomes:
    cls, _, name = dotted.rpartition(".")
    if name == "__init__":
        spec = function_spec(cls)
        if spec is not None:
            return _apply(machine, node, spec, cls, inner, passed, state, into=inner)
        return [(NONE, state)]
    return _library_method(machine, node, inner, name, passed, state)


def _apply(
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
    binding = bind(spec.params, passed)
    heap = dict(state.heap)
    step = len(machine.trace.visits)
    context = Context(machine, node, name, receiver, binding, state, into)
    result = spec.effect(context) if spec.effect else None
    if result is None:
        result = machine.fresh(node.uid, state)
    if spec.recorded and not machine.expecting:
        machine.trace.visits.append(Visit(node, name, receiver, binding, heap, result, step))
    return [(result, state)]


def bind(params: tuple[str, ...], passed: Passed) -> Binding:
    """Match arguments to the parameter names of a library function; ``*rest`` in ``params`` takes what is left over."""
    values: dict[str, Value] = {}
    args: dict[str, ir.Arg] = {}
    positional: list[Value] = []
    opened = False
    for arg, value in passed:
        if arg.star == "**":
            if isinstance(value, Table):
                values |= {str(k): v for k, v in value.items if str(k) not in values}
            opened |= not (isinstance(value, Table) and value.complete)
        elif arg.star == "*":
            opened |= not isinstance(value, Items)
            positional += value.items if isinstance(value, Items) else ()
        elif arg.name is not None:
            values[arg.name], args[arg.name] = value, arg
        else:
            if not opened and len(positional) < len(params):
                args[params[len(positional)]] = arg
            positional.append(value)
    for name, value in zip(params, positional, strict=False):
        values.setdefault(name, value)
    return Binding(values, args, opened, tuple(positional))


def _bind_own(machine: Machine, function: Function, passed: Passed, skip: int, state: State) -> dict[str, Value]:
    params = function.node.params[skip:]
    plain = tuple(p.name for p in params if not p.star and not p.keyword_only)
    binding = bind(plain, passed)
    values: dict[str, Value] = {}
    for param in params:
        found = binding.values.get(param.name)
        if param.star == "*":
            found = Items("tuple", binding.positional[len(plain) :])
        elif param.star == "**":
            named = {p.name for p in params}
            extra = tuple((k, v) for k, v in binding.values.items() if k not in named)
            found = Table(extra, complete=not binding.open)
        elif found is None and binding.open:
            found = Unknown(f"unseen:{param.name}@{id(function.node)}")
        elif found is None and param.default is not None:
            found, _ = expressions.single(machine, param.default, state, function.scope)
        values[param.name] = found or Unknown(f"missing:{param.name}@{id(function.node)}")
    return values


def enter(machine: Machine, function: Function, receiver: Value | None, arguments: Mapping[str, Value], state: State) -> Outcomes:
    """Run a function of this file with these arguments; the results of all its paths, alike ones joined."""
    node = function.node
    if node in machine.stack or len(machine.stack) >= DEPTH:
        return [(machine.fresh(node.uid, state), state)]
    scope = machine.new_scope(function.scope, owner=function.owner, self_value=receiver)
    for name, value in arguments.items():
        state.vars[scope, name] = value
    if receiver is not None and node.params:
        state.vars[scope, node.params[0].name] = receiver
    if isinstance(node, ir.Lambda):
        return [(value, _forget(scope, after)) for value, after in expressions.evaluate(machine, node.body, state, scope)]
    machine.entered.add(id(node))
    machine.stack.append(node)
    loops, guards = machine.loop_depth, machine.guard_depth
    machine.guard_depth = 0
    try:
        if not machine.worth_entering(function):
            return [(machine.fresh(node.uid, state), _forget(scope, state))]
        flow = machine.block(node.body, [state], scope)
    finally:
        machine.stack.pop()
        machine.loop_depth, machine.guard_depth = loops, guards
    outcomes = flow.returned + [(NONE, s) for s in flow.normal]
    if node.generator:
        outcomes = [(machine.fresh(node.uid, s), s) for _, s in outcomes]
    nested = any(isinstance(s, (ir.Function, ir.Class)) for s in node.body)
    return _join(machine, [(value, after if nested else _forget(scope, after)) for value, after in outcomes])


def _forget(scope: int, state: State) -> State:
    state.vars = {k: v for k, v in state.vars.items() if k[0] != scope}
    return state


def _join(machine: Machine, outcomes: Outcomes) -> Outcomes:
    if len(outcomes) < 2:
        return outcomes
    for value, state in outcomes:
        state.vars[_RESULT] = value
    joined, cut = merge_equal([state for _, state in outcomes], RESULTS)
    if cut:
        machine.trace.complete = False
    return [(state.vars.pop(_RESULT), state) for state in joined]


_RESULT = (-1, "result")


# -- classes of this file


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
        return [(obj, after) for _, after in enter(machine, initialise, obj, arguments or {}, state)]
    spec = function_spec(base) if base else None
    if spec is not None and node is not None and arguments is not None:
        binding = Binding(arguments)
        Context(machine, node, base or "", obj, binding, state, obj).run(spec)
    return [(obj, state)]


def _construct_call(machine: Machine, cls: UserClass, node: ir.Call, passed: Passed, state: State) -> Outcomes:
    initialise = find_method(cls, "__init__", state)
    if initialise is not None:
        return construct(machine, cls, node, state, _bind_own(machine, initialise, passed, 1, state))
    base = library_base(cls)
    spec = function_spec(base) if base else None
    if spec is not None and base is not None:
        obj = state.new(node.uid, Instance(node, cls.node.name))
        state.attrs[obj.oid, "__class__"] = cls
        _apply(machine, node, spec, base, obj, passed, state, into=obj)
        return [(obj, state)]
    binding = bind(_fields(cls), passed)
    outcomes = construct(machine, cls, node, state, None)
    for made, after in outcomes:
        for name, value in binding.values.items():
            if isinstance(made, Obj):
                after.attrs[made.oid, name] = value
    return outcomes


def _fields(cls: UserClass) -> tuple[str, ...]:
    return tuple(t.id for s in cls.node.body if isinstance(s, ir.Assign) for t in s.targets if isinstance(t, ir.Name))


def _super(machine: Machine) -> Value:
    for scope in reversed(machine.scopes.values()):
        if scope.owner is not None and scope.self_value is not None:
            return Super(scope.self_value, scope.owner)
    return Unknown("super")


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
    if isinstance(value, Items):
        return [o for item in value.items for o in _objects(item, state)]
    if isinstance(value, Table):
        return [o for _, item in value.items for o in _objects(item, state)]
    oid = state.oid(value)
    return [] if oid is None else [oid]


_CHANGING = frozenset({"append", "extend", "update", "insert", "pop", "remove", "clear", "setdefault", "add"})


def _container_method(
    machine: Machine, node: ir.Call, receiver: Table | Items, name: str, passed: Passed, state: State, scope: int
) -> Outcomes:
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
            binding = bind((), passed)
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


def truth(value: Value, state: State) -> bool | None:
    """Whether a value is true, if that is certain."""
    match value:
        case Known(value=known):
            return bool(known)
        case Items(items=items):
            return bool(items)
        case Unknown(key=key):
            return False if state.conds.get(f"{key} is None") else state.conds.get(key)
        case Obj() | Ref() | Function() | UserClass():
            return True
        case _:
            return None
