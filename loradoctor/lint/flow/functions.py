"""Functions of this file: arguments to parameters, and the body run with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import evaluate, statements
from loradoctor.lint.flow.facts import Model, Peft
from loradoctor.lint.flow.state import State, merge_equal
from loradoctor.lint.flow.trace import Binding
from loradoctor.lint.flow.values import (
    NONE,
    Function,
    Generator,
    Items,
    Method,
    Partial,
    Ref,
    Table,
    Unknown,
    Value,
)

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

Outcomes = list[tuple[Value, State]]
Passed = tuple[tuple[ir.Arg, Value], ...]

DEPTH = 12
"""How deep calls of this file's own functions are followed."""
RESULTS = 6
"""How many different outcomes of one call are kept apart."""
_RESULT = (-1, "result")


def bind(params: tuple[str, ...], passed: Passed) -> Binding:
    """Match arguments to the parameter names of a library function; ``*rest`` in ``params`` takes what is left over."""
    values: dict[str, Value] = {}
    args: dict[str, ir.Arg] = {}
    positional: list[Value] = []
    opened = False
    unseen = ""
    for arg, value in passed:
        if arg.star and not (isinstance(value, Items) if arg.star == "*" else isinstance(value, Table) and value.complete):
            opened = True
            unseen += f"@{arg.value.uid}" + (f"@{value.key}" if isinstance(value, Unknown) else "")
        if arg.star == "**":
            if isinstance(value, Table):
                values |= {str(k): v for k, v in value.items if str(k) not in values}
        elif arg.star == "*":
            positional += value.items if isinstance(value, Items) else ()
        elif arg.name is not None:
            values[arg.name], args[arg.name] = value, arg
        else:
            if not opened and len(positional) < len(params):
                args[params[len(positional)]] = arg
            positional.append(value)
    for name, value in zip(params, positional, strict=False):
        values.setdefault(name, value)
    return Binding(values, args, opened, tuple(positional), unseen)


def bind_own(machine: Machine, function: Function, passed: Passed, skip: int, state: State) -> dict[str, Value]:
    """Arguments by parameter name for a function of this file, defaults filled in."""
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
            found, _ = evaluate.single(machine, param.default, state, function.scope)
        values[param.name] = found or Unknown(f"missing:{param.name}@{id(function.node)}")
    return values


def enter(machine: Machine, function: Function, receiver: Value | None, arguments: Mapping[str, Value], state: State) -> Outcomes:
    """Call a function of this file with these arguments; the results of all its paths, alike ones joined.

    Nothing of a generator function runs before its result is iterated.
    """
    if isinstance(function.node, ir.Function) and function.node.generator:
        return [(Generator(function, receiver, tuple(arguments.items())), state)]
    return run(machine, function, receiver, arguments, state)


def run(machine: Machine, function: Function, receiver: Value | None, arguments: Mapping[str, Value], state: State) -> Outcomes:
    """Run the body of a function, a generator's as if nobody looked at what it yields."""
    node = function.node
    if not machine.may_enter(node, DEPTH):
        return [(machine.fresh(node.uid, state), state)]
    own = receiver if receiver is not None or function.owner is None else next(iter(arguments.values()), None)
    scope = machine.new_scope(function.scope, owner=function.owner, self_value=own)
    for name, value in arguments.items():
        machine.bind(name, value, scope, state)
    if receiver is not None and node.params:
        machine.bind(node.params[0].name, receiver, scope, state)
    if isinstance(node, ir.Lambda):
        machine.stack.append(node)
        try:
            return [(value, forget(machine, scope, after)) for value, after in evaluate.evaluate(machine, node.body, state, scope)]
        finally:
            machine.stack.pop()
    machine.entered.add(id(node))
    frame = machine.frame_of(node, (receiver, *arguments.values()))
    if not machine.worth_entering(function) and not _hands_on(node, arguments.values(), state):
        return [(Unknown(f"{node.name}@{node.uid}{frame}()"), forget(machine, scope, state))]
    machine.stack.append(node)
    machine.consumers.append(None)
    outside, machine.frame = machine.frame, frame
    loops, guards = machine.loop_depth, machine.guard_depth
    machine.guard_depth = 0
    try:
        flow = statements.block(machine, node.body, [state], scope)
    finally:
        machine.stack.pop()
        machine.consumers.pop()
        machine.frame = outside
        machine.loop_depth, machine.guard_depth = loops, guards
    outcomes = flow.returned + [(NONE, s) for s in flow.normal]
    if node.generator:
        outcomes = [(machine.fresh(node.uid, s), s) for _, s in outcomes]
    nested = any(isinstance(s, (ir.Function, ir.Class)) for s in node.body)
    return _join(machine, [(value, after if nested else forget(machine, scope, after)) for value, after in outcomes])


def _hands_on(node: ir.Function, arguments: Iterable[Value], state: State) -> bool:
    """Whether a function without any interesting word is run all the same.

    It only returns, makes another function, or is handed something that matters.
    """
    if (len(node.body) == 1 and isinstance(node.body[0], ir.Return)) or any(isinstance(s, ir.Function) for s in node.body):
        return True
    return any(isinstance(v, (Method, Partial)) or isinstance(state.facts(v), (Model, Peft)) or _matters(v) for v in arguments)


def _matters(value: Value) -> bool:
    return isinstance(value, (Function, Ref))


def forget(machine: Machine, scope: int, state: State) -> State:
    """Leave a function: its variables are gone."""
    for name in machine.scopes[scope].names:
        state.vars.pop((scope, name), None)
    return state


def _join(machine: Machine, outcomes: Outcomes) -> Outcomes:
    if len(outcomes) < 2:
        return outcomes
    for value, state in outcomes:
        state.vars[_RESULT] = value
    joined, cut = merge_equal([state for _, state in outcomes], RESULTS)
    if cut:
        machine.trace.cut_short()
    return [(state.vars.pop(_RESULT, NONE), state) for state in joined]
