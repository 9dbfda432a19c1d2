"""One path through the program: variables, heap, attributes, and the conditions taken so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress
from operator import is_not
from typing import TypeVar

from loradoctor.lint.flow.facts import Config, Facts, Model, Optimizer, Peft, Trainer
from loradoctor.lint.flow.layers import GONE, Entries, Layer, Reads, plain
from loradoctor.lint.flow.values import Obj, Oid, Table, Unknown, Value
from loradoctor.lint.ir import Node
from loradoctor.lint.record import replace

F = TypeVar("F", bound=Facts)
K = TypeVar("K")


class Run:
    """What all paths of a run together have ever said of values that nothing is known of."""

    __slots__ = ("_asked", "_known", "_seen", "models")

    def __init__(self) -> None:
        self.models: set[str] = set()
        self._known: set[str] = set()
        self._asked: list[str] = []
        self._seen: dict[str, int] = {}

    def ask(self, condition: str) -> None:
        """A path remembers a condition."""
        if condition not in self._known:
            self._known.add(condition)
            self._asked.append(condition)

    def mentions(self, name: str) -> bool:
        """Whether any path ever remembered a condition with this name in it."""
        since, now = self._seen.get(name, 0), len(self._asked)
        if since < 0 or since == now:
            return since < 0
        found = any(name in condition for condition in self._asked[since:])
        self._seen[name] = -1 if found else now
        return found

    def has_models(self, names: Iterable[str]) -> bool:
        """Whether anything whose key begins like one of these was ever taken for a model."""
        return any(key.startswith(name) for key in self.models for name in names)


class State:
    """Mutable; :meth:`fork` before going two ways."""

    __slots__ = ("attrs", "conds", "heap", "run", "vars")

    def __init__(self) -> None:
        self.run = Run()
        self.vars: Entries[tuple[int, str], Value] = {}
        self.heap: Entries[Oid, Facts] = {}
        self.attrs: Entries[tuple[Oid, str], Value] = {}
        self.conds: Entries[str, bool] = {}

    def fork(self) -> State:
        """An independent copy."""
        copy = State.__new__(State)
        copy.run = self.run
        copy.vars, copy.heap = self.vars.copy(), self.heap.copy()
        copy.attrs, copy.conds = self.attrs.copy(), self.conds.copy()
        return copy

    def become(self, other: State) -> None:
        """Go on as another path does."""
        self.vars, self.heap, self.attrs, self.conds = other.vars, other.heap, other.attrs, other.conds

    def layered(self, reads: Reads) -> State:
        """Go on as changes to what this path is now, which is given back and must not be touched meanwhile."""
        base = State.__new__(State)
        base.run = self.run
        base.become(self)
        self.vars = Layer(base.vars, reads.vars, reads)
        self.heap = Layer(base.heap, reads.heap, reads)
        self.attrs = Layer(base.attrs, reads.attrs, reads)
        self.conds = Layer(base.conds, reads.conds, reads)
        return base

    def flatten(self) -> None:
        """Go on as a path of its own."""
        self.vars, self.heap, self.attrs, self.conds = plain(self.vars), plain(self.heap), plain(self.attrs), plain(self.conds)

    def same_world(self, other: State) -> bool:
        """Whether both paths have led to the same variables and objects, whatever the conditions."""
        return self.heap == other.heap and self.vars == other.vars and self.attrs == other.attrs

    # -- objects

    def oid(self, value: Value | None) -> Oid | None:
        """The identity of an object, if ``value`` is one that is known of."""
        kind = type(value)  # asked millions of times: `isinstance` doubles the cost
        if kind is Obj:
            return value.oid  # type: ignore[union-attr, no-any-return]
        if kind is Unknown and value.key in self.heap:  # type: ignore[union-attr]
            return value.key  # type: ignore[union-attr, no-any-return]
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
            self.heap[oid] = replace(facts, **fitting)


def merge_equal(states: list[State], limit: int, enough: int | None = None) -> tuple[list[State], bool]:
    """The paths that differ, at most ``limit`` of them, and whether any had to be dropped.

    Paths that led to the same world become one that remembers only the conditions they share: a branch that changed nothing
    leaves no trace. Where more than ``enough`` remain, those whose models, trainers, optimizers and configurations are alike are joined,
    and what they disagree on is forgotten; where that is not enough, one path of each shape is kept.
    """
    kept: list[State] = []
    for state in states:
        twin = next((k for k in kept if k.same_world(state)), None)
        if twin is None:
            kept.append(state)
        else:
            share_conditions(twin, state)
    if len(kept) <= (limit if enough is None else enough):
        return kept, False
    kept = _join_alike(kept)
    if len(kept) <= limit:
        return kept, False
    shapes: dict[object, State] = {}
    changed = _changed(kept)
    for state in kept:
        shapes.setdefault(_shape(state, changed), state)
    return list(shapes.values())[:limit], True


def share_conditions(one: State, other: State) -> None:
    """Leave a path only the conditions that it shares with another."""
    mine, others = one.conds, other.conds
    if isinstance(mine, Layer) and isinstance(others, Layer) and mine.base is others.base:
        for condition in {**mine.own, **others.own}:
            if mine.get(condition) is not others.get(condition):
                mine.own[condition] = GONE
    elif one.conds != other.conds:
        one.conds = {k: v for k, v in one.conds.items() if other.conds.get(k) is v}


_TRACKED = (Model, Peft, Trainer, Optimizer, Config)


def _tracked(state: State) -> tuple[dict[Oid, Facts], dict[tuple[int, str], Oid]]:
    heap: dict[Oid, Facts] = {oid: facts for oid, facts in state.heap.items() if isinstance(facts, _TRACKED)}
    names: dict[tuple[int, str], Oid] = {}
    for name, value in state.vars.items() if heap else ():
        kind = type(value)
        oid = value.oid if kind is Obj else value.key if kind is Unknown else None  # type: ignore[attr-defined]
        if oid in heap:
            names[name] = oid
    return heap, names


def _changed(states: Sequence[State]) -> tuple[list[Oid], list[tuple[int, str]]] | None:
    """The objects and variables in which paths can differ that were begun together; None where that is not known."""
    oids: dict[Oid, None] = {}
    names: dict[tuple[int, str], None] = {}
    first = states[0]
    for state in states:
        heap, variables = state.heap, state.vars
        if not (isinstance(heap, Layer) and isinstance(variables, Layer)):
            return None
        if not (isinstance(first.heap, Layer) and isinstance(first.vars, Layer)):
            return None
        if heap.base is not first.heap.base or variables.base is not first.vars.base:
            return None
        oids |= dict.fromkeys(heap.own)
        names |= dict.fromkeys(variables.own)
    return list(oids), list(names)


def _signature(state: State, changed: tuple[list[Oid], list[tuple[int, str]]] | None) -> tuple[dict[Oid, Facts], dict[tuple[int, str], Oid]]:
    """The tracked objects and the variables that hold them, where paths that were begun together can differ."""
    if changed is None:
        return _tracked(state)
    heap: dict[Oid, Facts] = {oid: facts for oid in changed[0] if isinstance(facts := state.heap.get(oid), _TRACKED)}
    names: dict[tuple[int, str], Oid] = {}
    for name in changed[1]:
        value = state.vars.get(name)
        oid = value.oid if type(value) is Obj else value.key if type(value) is Unknown else None
        if oid is not None and isinstance(state.heap.get(oid), _TRACKED):
            names[name] = oid
    return heap, names


def _join_alike(states: Sequence[State]) -> list[State]:
    joined: list[tuple[State, object]] = []
    changed = _changed(states)
    for state in states:
        signature = _signature(state, changed)
        twin = next((s for s, tracked in joined if tracked == signature), None)
        if twin is None:
            joined.append((state, signature))
            continue
        oids = changed[0] if changed is not None else state.heap if state.heap.keys() - twin.heap.keys() else ()
        for oid in oids:
            facts = state.heap.get(oid)
            if facts is not None:
                twin.heap.setdefault(oid, facts)
        for name, held, value in _differing(twin.vars, state.vars):
            twin.vars[name] = _either(held, value, f"either:{name[0]}:{name[1]}")
        for attr, known, value in _differing(twin.attrs, state.attrs):
            twin.attrs[attr] = _either(known, value, f"either:{attr[0]}.{attr[1]}")
        share_conditions(twin, state)
    if isinstance(states[0].vars, Layer) and len(joined) < len(states):
        states[0].vars.bind()  # what is made of two values is named after its scope
    return [state for state, _ in joined]


def _differing(one: Entries[K, Value], other: Entries[K, Value]) -> list[tuple[K, Value | None, Value]]:
    """What another path holds that this one does not, with what this one has there."""
    keys: Iterable[K]
    if isinstance(one, Layer) and isinstance(other, Layer) and one.base is other.base:
        keys = [key for key in {**other.own, **one.own} if key in other]
    else:  # forked from one: nearly all values are the very same objects
        keys = compress(other, map(is_not, map(one.get, other), other.values()))
    pairs = [(key, one.get(key), other[key]) for key in keys]
    return [(key, held, value) for key, held, value in pairs if held is not value and held != value]


def _either(one: Value | None, other: Value, key: str) -> Value:
    """What is left of two values when it is forgotten which it is: of two tables, the entries they share."""
    if isinstance(one, Table) and isinstance(other, Table):
        return Table(tuple((k, v) for k, v in one.items if one.get(k) == other.get(k) == v), complete=False)
    return Unknown(key)


def _shape(state: State, changed: tuple[list[Oid], list[tuple[int, str]]] | None) -> object:
    """What rules look at, without where things came from."""
    heap, names = _signature(state, changed)
    plain = {"made", "source", "cls", "fields", "config", "touched"}
    return (
        frozenset((oid, *(_plain(getattr(f, n)) for n in f.field_names if n not in plain)) for oid, f in heap.items()),
        frozenset(names.items()),
    )


def outline(state: State) -> object:
    """Which variables hold models in which condition, without where those came from or which they are."""
    heap, names = _tracked(state)
    found = {}
    for name, oid in names.items():
        facts = heap[oid]
        inner = state.heap.get(facts.base) if isinstance(facts, Peft) else None
        found[name] = (name, _condition(facts), None if inner is None else _condition(inner))
    return frozenset(found.values())


def _condition(facts: Facts) -> object:
    return (type(facts), *(getattr(facts, n) is None for n in facts.field_names))


def _plain(value: object) -> object:
    return value.uid if isinstance(value, Node) else value
