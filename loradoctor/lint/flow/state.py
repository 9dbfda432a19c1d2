"""One path through the program: variables, heap, attributes, and the conditions taken so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from loradoctor.lint.flow.facts import Facts
from loradoctor.lint.flow.values import Obj, Oid, Unknown, Value

F = TypeVar("F", bound=Facts)


class State:
    """Mutable; :meth:`fork` before going two ways."""

    __slots__ = ("attrs", "conds", "heap", "vars")

    def __init__(self) -> None:
        self.vars: dict[tuple[int, str], Value] = {}
        self.heap: dict[Oid, Facts] = {}
        self.attrs: dict[tuple[Oid, str], Value] = {}
        self.conds: dict[str, bool] = {}

    def fork(self) -> State:
        """An independent copy."""
        copy = State.__new__(State)
        copy.vars, copy.heap = self.vars.copy(), self.heap.copy()
        copy.attrs, copy.conds = self.attrs.copy(), self.conds.copy()
        return copy

    def same_world(self, other: State) -> bool:
        """Whether both paths have led to the same variables and objects, whatever the conditions."""
        return self.heap == other.heap and self.vars == other.vars and self.attrs == other.attrs

    # -- objects

    def oid(self, value: Value | None) -> Oid | None:
        """The identity of an object, if ``value`` is one that is known of."""
        if isinstance(value, Obj):
            return value.oid
        if isinstance(value, Unknown) and value.key in self.heap:
            return value.key
        return None

    def facts(self, value: Value | None) -> Facts | None:
        """What is known of an object now."""
        oid = self.oid(value)
        return None if oid is None else self.heap.get(oid)

    def get(self, value: Value | None, kind: type[F]) -> F | None:
        """The facts of an object if they are of this kind."""
        facts = self.facts(value)
        return facts if isinstance(facts, kind) else None

    def new(self, uid: int, facts: Facts) -> Obj:
        """A fresh object made by node ``uid``."""
        count = 0
        while (uid, count) in self.heap:
            count += 1
        self.heap[uid, count] = facts
        return Obj((uid, count))

    def change(self, value: Value | Oid | None, **changes: object) -> None:
        """Replace some facts of an object; nothing happens when the object is not known or has no such facts."""
        oid = self.oid(value) if isinstance(value, Value) or value is None else value
        facts = self.heap.get(oid) if oid is not None else None
        if oid is not None and facts is not None:
            fitting = {k: v for k, v in changes.items() if hasattr(facts, k)}
            self.heap[oid] = replace(facts, **fitting)  # type: ignore[arg-type]


def merge_equal(states: list[State], limit: int) -> tuple[list[State], bool]:
    """The paths that differ, at most ``limit`` of them, and whether any had to be dropped.

    Paths that led to the same world become one that remembers only the conditions they share: a branch that changed nothing
    leaves no trace.
    """
    kept: list[State] = []
    for state in states:
        twin = next((k for k in kept if k.same_world(state)), None)
        if twin is None:
            kept.append(state)
        elif twin.conds != state.conds:
            twin.conds = {k: v for k, v in twin.conds.items() if state.conds.get(k) is v}
    if len(kept) > limit:
        kept = _forget_small_differences(kept)
    return kept[:limit], len(kept) > limit


def _forget_small_differences(states: Iterable[State]) -> list[State]:
    """Join paths whose objects are alike, forgetting the variables in which they differ."""
    joined: list[State] = []
    for state in states:
        twin = next((j for j in joined if j.heap == state.heap and _same_objects(j, state)), None)
        if twin is None:
            joined.append(state)
            continue
        for name, value in state.vars.items():
            if twin.vars.get(name) != value:
                twin.vars[name] = Unknown(f"either:{name[0]}:{name[1]}")
        for attr, value in state.attrs.items():
            if twin.attrs.get(attr) != value:
                twin.attrs[attr] = Unknown(f"either:{attr[0]}.{attr[1]}")
        twin.conds = {k: v for k, v in twin.conds.items() if state.conds.get(k) is v}
    return joined


def _same_objects(one: State, other: State) -> bool:
    def objects(state: State) -> dict[tuple[int, str], Value]:
        return {name: value for name, value in state.vars.items() if state.oid(value) is not None}

    return objects(one) == objects(other)
