"""Elements: what a loop binds in its turns, and items of containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradoctor.lint.flow import loops
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import (
    Derived,
    Items,
    Known,
    Many,
    Unknown,
    Value,
)

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

def element_of(machine: Machine, iterable: Value, turn: int, uid: int, state: State) -> Value:
    """What a loop over ``iterable`` binds in its ``turn``-th turn."""
    match iterable:
        case Items(items=items) | Many(items=items) if items:
            return items[turn % len(items)]
        case Derived(kind="parameters", source=source):
            return Derived("parameter", source, str(machine.guard_depth))
        case Derived(kind="named_parameters", source=source):
            name = machine.fresh(uid, state, f"name{turn}")
            return Items("tuple", (name, Derived("parameter", source, str(machine.guard_depth))))
        case Derived(kind="modules", source=source):
            return Derived("submodule", source, "partly")
        case Derived(kind="named_modules", source=source):
            return Items("tuple", (machine.fresh(uid, state, f"name{turn}"), Derived("submodule", source, "partly")))
        case Derived(kind="enumerate", source=source, note=start):
            number = _turn(machine, turn, uid, state) if not start else machine.fresh(uid, state, f"turn{turn}")
            return Items("tuple", (number, element_of(machine, source, turn, uid, state)))
        case Derived(kind="adapter_items"):
            return Items("tuple", (Derived("adapter_key", iterable, str(turn)), machine.fresh(uid, state, f"tensor{turn}")))
        case Derived(kind="range"):
            return _turn(machine, turn, uid, state)
        case _:
            return machine.fresh(uid, state, f"item{turn}")


def _turn(machine: Machine, turn: int, uid: int, state: State) -> Value:
    """The number of a turn: zero, then anything but zero, so that what is done in the first turn is done in that one alone."""
    number = machine.fresh(uid, state, f"turn{turn}")
    if loops.turns(machine, number) < 2:
        return number
    if turn == 0:
        return Known(0)
    state.conds.update({number.key: True, f"{number.key}==0": False, f"{number.key} > 0": True, f"{number.key} < 1": False})
    state.run.ask(f"{number.key}==0")
    return number


def item_of(machine: Machine, value: Value, index: int, uid: int, state: State) -> Value:
    """``value[index]``."""
    match value:
        case Items(items=items) if index < len(items):
            return items[index]
        case Many(items=items) if items:
            return items[index % len(items)]
        case Unknown(key=key):
            return Unknown(f"{key}[{index}]")
        case _:
            return machine.fresh(uid, state)
