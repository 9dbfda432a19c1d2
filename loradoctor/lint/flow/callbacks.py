"""Calls of library functions that call, or iterate, what they are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import calls, elements, generators, loops, predicates
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import NAMESPACE, Function, Generator, Items, Many, Method, Partial, Ref, Unknown, Value

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

Outcomes = list[tuple[Value, State]]
Passed = tuple[tuple[ir.Arg, Value], ...]

RUNNERS = {
    "threading.Thread": ("target", 1, "args"),
    "multiprocessing.Process": ("target", 1, "args"),
    "torch.multiprocessing.Process": ("target", 1, "args"),
    "accelerate.notebook_launcher": ("function", 0, "args"),
    "accelerate.debug_launcher": ("function", 0, "args"),
}
"""Who calls a function with a tuple of arguments: the names of the two, and where the function stands."""

_WHOLE = frozenset({"builtins.list", "builtins.tuple", "builtins.sorted", "builtins.set", "builtins.iter", "tqdm.tqdm", "tqdm.auto.tqdm"})


def call(machine: Machine, node: ir.Call, name: str, passed: Passed, state: State) -> Outcomes | None:
    """What such a call gives; None when it is none."""
    values = [value for arg, value in passed if not arg.star and arg.name is None]
    if name == "builtins.globals":
        return [(NAMESPACE, state)]
    if values and isinstance(values[0], Generator):
        if name in _WHOLE:
            return generators.collected(machine, values[0], state)
        if name == "builtins.next":
            return generators.first(machine, values[0], state)
    if name == "builtins.next" and values and isinstance(values[0], (Items, Many)) and values[0].items:
        return [(values[0].items[0], state)]
    if name == "builtins.map" and len(values) == 2 and isinstance(values[0], (Function, Method, Partial, Ref)):
        return _map(machine, node, values[0], values[1], state)
    if name == "builtins.zip" and values and len(values) == len(passed) and all(isinstance(v, (Items, Many)) for v in values):
        return [(_zip([v for v in values if isinstance(v, (Items, Many))]), state)]
    if name == "builtins.bool" and len(values) == 1 and isinstance(values[0], Unknown):
        return [(values[0], state)]
    if name.endswith("is_peft_model") and len(values) == 1:
        answer = predicates.is_instance(values[0], Ref("peft.PeftModel"), state)
        return None if answer is None else [(answer, state)]
    asked = predicates.version_call(machine, name, passed)
    if asked is not None:
        return [(asked, state)]
    if name in RUNNERS:
        return _run(machine, node, name, passed, state)
    return None


def _map(machine: Machine, node: ir.Call, function: Value, source: Value, state: State) -> Outcomes | None:
    """Call a function with each element, as often as a loop would be run."""
    if isinstance(function, Ref) and not isinstance(source, Items):
        return None
    count = len(source.items) if isinstance(source, Items) and len(source.items) <= _SPELLED_OUT else loops.turns(machine, source)
    outcomes: list[tuple[tuple[Value, ...], State]] = [((), state)]
    argument = node.args[1]
    for turn in range(count):
        outcomes = [
            ((*done, result), after)
            for done, each in outcomes
            for result, after in calls.call_value(
                machine, node, function, ((argument, elements.element_of(machine, source, turn, node.uid, each)),), each
            )
        ][:_SPELLED_OUT]
    return [(Many(done), after) for done, after in outcomes]


_SPELLED_OUT = 4


def _zip(columns: list[Items | Many]) -> Value:
    if all(isinstance(c, Items) for c in columns):
        return Items("list", tuple(Items("tuple", row) for row in zip(*(c.items for c in columns), strict=False)))
    rows = max(len(c.items) for c in columns if c.items) if all(c.items for c in columns) else 0
    return Many(tuple(Items("tuple", tuple(c.items[r % len(c.items)] for c in columns)) for r in range(rows)))


def _run(machine: Machine, node: ir.Call, name: str, passed: Passed, state: State) -> Outcomes | None:
    """Start a function elsewhere: what it does to its arguments is done by the time anybody looks."""
    keyword, place, arguments = RUNNERS[name]
    named = {arg.name: value for arg, value in passed if arg.name is not None}
    positional = [value for arg, value in passed if arg.name is None]
    function = named.get(keyword) or (positional[place] if len(positional) > place else None)
    given = named.get(arguments) or (positional[place + 1] if len(positional) > place + 1 else Items("tuple", ()))
    if not isinstance(function, (Function, Method)) or not isinstance(given, Items):
        return None
    plain = tuple((ir.Arg(node, None, "", None), value) for value in given.items)
    return [(machine.fresh(node.uid, after), after) for _, after in calls.call_value(machine, node, function, plain, state)]
