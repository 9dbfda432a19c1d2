"""What nothing in a file calls: functions and methods that are run with arguments nothing is known of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loradoctor.lint import ir, prune
from loradoctor.lint.flow import classes, functions, statements
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import (
    Function,
    Known,
    Table,
    Unknown,
    UserClass,
    Value,
)

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine


def run_uncalled(machine: Machine, world: State) -> None:
    """Run every function and method that the module itself did not call."""
    machine.functions = [(f, owner) for f, owner in machine.functions if machine.program.holds(f.node)]
    called = {w for f, _ in machine.functions if isinstance(f.node, ir.Function) for w in f.node.words}
    pending = sorted(machine.functions, key=lambda item: isinstance(item[0].node, ir.Function) and item[0].node.name in called)
    machine.uncalled = True
    beginnings = prune.reach(machine, world)
    objects: dict[int, list[tuple[Value, State]]] = {}
    for function, owner in pending:
        if id(function.node) in machine.entered or not machine.worth_entering(function):
            continue
        if not prune.worth_starting(function, owner, beginnings):
            continue
        _remember_defaults(machine, function)
        if owner is not None and function.node.name == "__init__":  # type: ignore[union-attr]
            _instances(machine, owner, world, objects)
            continue
        if owner is None:
            with _alone(machine):
                functions.run(machine, function, None, _unknown_arguments(function), world.fork())
            continue
        for receiver, state in _instances(machine, owner, world, objects)[:2]:
            with _alone(machine):
                functions.run(machine, function, receiver, _unknown_arguments(function, skip=1), state.fork())


@contextmanager
def _alone(machine: Machine) -> Iterator[None]:
    """A run that may take so many steps and no more; the one after it finds the machine as it was."""
    since, expecting = len(machine.trace.visits), machine.expecting
    machine.limit = min(statements.STEPS, machine.steps + statements.ALONE)
    try:
        yield
    except statements.Exhausted:
        if machine.limit == statements.STEPS:
            raise
        machine.trace.cut_short(since=since)
        machine.expecting, machine.loop_depth, machine.guard_depth = expecting, 0, 0
        machine.elements, machine.element_names = [], []
    finally:
        machine.limit = statements.STEPS


def _stand_in(machine: Machine, owner: UserClass) -> UserClass:
    """The subclass that is made in this file, for a class that is not."""
    if owner.node.uid in machine.made:
        return owner
    made = (cls for cls in machine.classes if cls.node.uid in machine.made)
    below = (cls for cls in made if any(isinstance(part, UserClass) and part.node is owner.node for part in classes.lineage(cls)))
    return next(below, owner)


def _instances(
    machine: Machine, owner: UserClass, world: State, objects: dict[int, list[tuple[Value, State]]]
) -> list[tuple[Value, State]]:
    """What :func:`_instance` makes, once for all methods of a class: it is most of what running them costs."""
    if owner.node.uid not in objects:
        objects[owner.node.uid] = []
        with _alone(machine):
            objects[owner.node.uid] = _instance(machine, owner, world.fork())
    return objects[owner.node.uid]


def _instance(machine: Machine, owner: UserClass, state: State) -> list[tuple[Value, State]]:
    """An object of a class of this file, built by its ``__init__`` with unknown arguments."""
    owner = _stand_in(machine, owner)
    initialise = classes.find_method(owner, "__init__", state)
    return classes.construct(machine, owner, None, state, _unknown_arguments(initialise, skip=1) if initialise else None)


def _remember_defaults(machine: Machine, function: Function) -> None:
    """What a framework that turns a function into a command line passes unless its user says otherwise."""
    for param in function.node.params:
        if isinstance(param.default, ir.Const) and param.default.value is not None and isinstance(function.node, ir.Function):
            machine.trace.defaults[f"{function.node.name}({param.name})"] = Known(param.default.value)


def _unknown_arguments(function: Function, skip: int = 0) -> dict[str, Value]:
    name = function.node.name if isinstance(function.node, ir.Function) else "lambda"
    arguments: dict[str, Value] = {}
    for param in function.node.params[skip:]:
        arguments[param.name] = Table((), complete=False) if param.star == "**" else Unknown(f"{name}({param.name})")
    return arguments
