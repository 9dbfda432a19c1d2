"""What a statement did is done again without running it, where everything it looked at is as it was.

The same statement is run on every path, in every turn of a loop and in every call of its function, and most of what tells the
paths apart is nothing that it looks at. While a statement runs, the path it runs on is a layer over the path before: what it
looks at there and what it changes is remembered, with the calls that were seen; the next path that agrees gets the changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loradoctor.lint import ir
from loradoctor.lint.flow import conditions, functions
from loradoctor.lint.flow.facts import Facts
from loradoctor.lint.flow.layers import GONE, Layer, Reads, change, plain, plainly, told
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.trace import Store, Visit
from loradoctor.lint.flow.values import Oid, Value

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

Ends = tuple[list[tuple[Any, State]], ...]
"""The ways out of a statement, each with the paths that took it and what they took with them."""

KEPT = 24
"""How many records of one statement are kept: paths that are followed side by side are at most twelve, most of them alike."""
CALLED, ALONE = 6, 2
"""How many records of a statement may be made in vain, in what a script does and in a function that is run by itself.

There, with arguments nothing is known of, hardly two paths agree. Every record that is used again makes up for one in vain.
"""
NESTED = 6
"""How many records are made at once: one of a call, and those of the statements in the function."""


@dataclass(slots=True)
class Record:
    """What one run of a statement looked at, and what it did."""

    scope: int
    depth: int
    reads: Reads = field(default_factory=Reads)
    fresh: list[str] = field(default_factory=list)
    entered: set[ir.Node] = field(default_factory=set)
    deepest: int = 0
    steps: int = 0
    visits: list[tuple[Visit, dict[Oid, Facts]]] = field(default_factory=list)
    stores: list[tuple[Store, dict[Oid, Facts]]] = field(default_factory=list)
    events: list[tuple[str, Oid, ir.Node]] = field(default_factory=list)
    local: list[tuple[int, str]] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    keys: tuple[tuple[Any, ...], ...] = ()
    held: tuple[list[Any], ...] = ()
    conds: dict[str, bool] | None = None
    ends: tuple[tuple[tuple[Any, _Changes], ...], ...] = ()


@dataclass(slots=True)
class _Changes:
    """What a path has more than the one it comes from; ``local`` by the name alone."""

    local: dict[str, Value]
    vars: dict[tuple[int, str], Value]
    heap: dict[Oid, Facts]
    attrs: dict[tuple[Oid, str], Value]
    conds: dict[str, bool]
    forgot: dict[str, None]


def look(machine: Machine, node: ir.Node, state: State, scope: int, *, several: bool) -> Record | list[Record] | None:
    """A record of a statement or test that can be done again here, the place for one that is worth making, or None.

    ``several`` when other paths wait to run the same.
    """
    place = machine.scopes[scope]
    if place.aliases or place.is_class or (machine.consumers and machine.consumers[-1] is not None):
        return None
    key = (
        node.uid,
        machine.frame,
        min(machine.loop_depth, 2),
        machine.guard_depth,
        machine.expecting,
        machine.uncalled and len(machine.stack) == 1,
        len(machine.imports) + len(machine.stars) + len(machine.modules) + len(machine.config_classes),
        tuple(machine.elements) if machine.elements else None,
    )
    records = machine.memory.get(key)
    if records is None:
        records = machine.memory[key] = []
        if not several and not machine.loop_depth:  # most statements of most scripts are run once
            return None
    worth = machine.worth
    value = worth.get(node.uid)
    if value is None:
        value = ALONE if machine.uncalled else CALLED
    if value < 0:
        return None
    for record in records:
        if _fits(machine, record, state, scope):
            worth[node.uid] = value + 1
            return record
    if len(machine.records) >= NESTED:
        return None
    worth[node.uid] = value - 1
    return records


# -- making a record


def recorded(machine: Machine, node: ir.Node, records: list[Record], state: State, scope: int, execute: Callable[[], Ends]) -> Ends:
    """Run a statement and keep a record of it."""
    record = Record(scope, len(machine.stack))
    reads = record.reads
    base = state.layered(reads)
    complete, steps = machine.trace.complete, machine.steps
    machine.records.append(record)
    try:
        ends = execute()
    finally:
        machine.records.pop()
    record.steps = machine.steps - steps
    paths = {id(s): s for way in ends for _, s in way}
    changes = {number: _changes(path, base, scope) for number, path in paths.items()}
    if None in changes.values():
        machine.give_up()
    elif not reads.void and machine.trace.complete is complete:
        record.ends = tuple([tuple([(what, each) for what, s in way if (each := changes[id(s)]) is not None]) for way in ends])
        _close(record, base)
        records.insert(0, record)
        del records[KEPT:]
    if reads.void:
        machine.worth[node.uid] = -1
    left = len(paths)
    for number, path in paths.items():
        left -= 1
        found = changes[number]
        if found is None:
            path.flatten()
        else:
            path.become(base.fork() if left else base)
            _make(path, found, scope)
    return ends


def _changes(path: State, base: State, scope: int) -> _Changes | None:
    """What sets a path apart from the one it came from; None for one that was put together in another way."""
    variables, heap, attrs, conds = path.vars, path.heap, path.attrs, path.conds
    if not (isinstance(variables, Layer) and isinstance(heap, Layer) and isinstance(attrs, Layer) and isinstance(conds, Layer)):
        return None
    if variables.base is not base.vars or heap.base is not base.heap or attrs.base is not base.attrs or conds.base is not base.conds:
        return None
    local: dict[str, Value] = {}
    others: dict[tuple[int, str], Value] = {}
    for key, value in variables.own.items():
        if key[0] == scope:
            local[key[1]] = value
        elif value is not GONE or key in base.vars:
            others[key] = value
    return _Changes(local, others, heap.own, attrs.own, conds.own, conds.forgot)


def _make(path: State, changes: _Changes, scope: int) -> None:
    for name in changes.forgot:
        conditions.forget(name, path)
    for name, value in changes.local.items():
        if value is GONE:
            path.vars.pop((scope, name), None)
        else:
            path.vars[scope, name] = value
    if changes.vars:
        change(path.vars, changes.vars)
    if changes.heap:
        change(path.heap, changes.heap)
    if changes.attrs:
        change(path.attrs, changes.attrs)
    if changes.conds:
        change(path.conds, changes.conds, anew=True)


def _close(record: Record, base: State) -> None:
    """Put what was looked at in the form in which it is compared."""
    reads, scope = record.reads, record.scope
    local = {key: value for key, value in reads.vars.items() if key[0] == scope}
    record.local, record.values = list(local), list(local.values())
    looked = ({key: value for key, value in reads.vars.items() if key not in local}, reads.heap, reads.attrs, reads.conds)
    record.keys = tuple([tuple(each) for each in looked])
    record.held = tuple([list(each.values()) for each in looked])
    if reads.whole:
        record.conds = plain(base.conds)


# -- using one


def _fits(machine: Machine, record: Record, state: State, scope: int) -> bool:
    if record.scope == scope:
        keys = record.local
    elif record.reads.bound:
        return False
    else:
        keys = [(scope, name) for _, name in record.local]
    if list(map(plainly(state.vars), keys)) != record.values:
        return False
    variables, heap, attrs, conds = record.keys
    if variables and list(map(plainly(state.vars), variables)) != record.held[0]:
        return False
    if heap and list(map(plainly(state.heap), heap)) != record.held[1]:
        return False
    if attrs and list(map(plainly(state.attrs), attrs)) != record.held[2]:
        return False
    if conds and list(map(plainly(state.conds), conds)) != record.held[3]:
        return False
    if len(state.conds) > conditions.REMEMBERED - 100:
        return False
    if record.reads.questions or record.conds is not None:
        now = state.conds.merged() if isinstance(state.conds, Layer) else state.conds
        for question, found in record.reads.questions.items():
            if told(now, question) != found:
                return False
        if record.conds is not None and now != record.conds:
            return False
    if record.entered and (len(machine.stack) + record.deepest > functions.DEPTH or not record.entered.isdisjoint(machine.stack)):
        return False
    return machine.steps + record.steps <= machine.limit and not (state.run.models and state.run.has_models(record.fresh))


def again(machine: Machine, record: Record, state: State, scope: int) -> Ends:
    """Do what a record tells."""
    machine.steps += record.steps
    for outer in machine.records:
        outer.fresh += record.fresh
        outer.entered |= record.entered
        outer.deepest = max(outer.deepest, len(machine.stack) - outer.depth + record.deepest)
    if machine.records:
        _look_at(record, state, scope)
    for visit, heap in record.visits:
        machine.trace.saw(visit, state.heap.copy(), heap)
    for store, heap in record.stores:
        machine.trace.stored(store, state.heap.copy(), heap)
    for kind, oid, node in record.events:
        machine.trace.event(kind, oid, node)
    changes = {id(each): each for way in record.ends for _, each in way}
    paths: dict[int, State] = {}
    for number in changes:
        paths[number] = state.fork() if len(paths) < len(changes) - 1 else state
    names = machine.scopes[scope].names
    for number, path in paths.items():
        names.update(changes[number].local)
        _make(path, changes[number], scope)
    return tuple([[(what, paths[id(each)]) for what, each in way] for way in record.ends])


def _look_at(record: Record, state: State, scope: int) -> None:
    """What a record rests on, those rest on that are being made around it."""
    for key in record.local:
        state.vars.get((scope, key[1]))
    look: tuple[Callable[[Any], object], ...] = (state.vars.get, state.heap.get, state.attrs.get, state.conds.get)
    for keys, get in zip(record.keys, look, strict=True):
        for key in keys:
            get(key)
    for question in record.reads.questions:
        told(state.conds, question)
    if record.conds is not None and isinstance(state.conds, Layer):
        state.conds.whole()
    if record.reads.bound and isinstance(state.vars, Layer):
        state.vars.bind()
