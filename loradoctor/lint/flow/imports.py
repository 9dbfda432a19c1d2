"""Imports: names of a library, or the files of this project, run in a scope of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradoctor.lint.flow import statements, survey
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import Known, Ref, UserModule, Value
from loradoctor.lint.libraries import canonical
from loradoctor.lint.project import Unit

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine


def bind_all(machine: Machine, dotted: str, scope: int, state: State) -> None:
    """``from dotted import *``: the names of a file of this project, or whatever a library has."""
    found = machine.project.find(dotted, machine.scopes[machine.root(scope)].path) if machine.project is not None else None
    if found is None:
        machine.stars.append(dotted)
        return
    inner = module(machine, found[0], state)
    for (home, name), value in list(state.vars.items()):
        if home == inner and not name.startswith("_"):
            machine.bind(name, value, scope, state)


def imported(machine: Machine, dotted: str, scope: int, state: State) -> Value:
    """What an import binds: a name of a file of this project, or something of a library."""
    importer = machine.scopes[machine.root(scope)].path
    found = machine.project.find(dotted, importer) if machine.project is not None else None
    if found is None:
        return Ref(canonical(dotted))
    unit, rest = found
    value: Value = UserModule(module(machine, unit, state))
    for name in rest:
        held = state.vars.get((value.scope, name)) if isinstance(value, UserModule) else None
        if held is None:
            return Ref(dotted)
        value = held
    return value


def module(machine: Machine, unit: Unit, state: State) -> int:
    """The scope of another file, run in ``state`` unless it has been."""
    path = unit.source.path
    if path not in machine.modules:
        machine.modules[path] = machine.new_module(path)
        machine.assigned.update(survey.count_assignments(unit.program))
        machine.interesting |= survey.interesting_words(unit.program, machine.interesting)
    scope = machine.modules[path]
    if (scope, "__name__") in state.vars:
        return scope
    state.vars[scope, "__name__"] = Known(path)
    stack, loops, machine.stack, machine.loop_depth = machine.stack, machine.loop_depth, [], 0
    try:
        after = statements.block(machine, unit.program.body, [state.fork()], scope).normal
    finally:  # the calls this import happens in put their own frames away
        machine.stack, machine.loop_depth = stack, loops
    if after:
        state.vars, state.heap, state.attrs = after[0].vars, after[0].heap, after[0].attrs
    return scope
