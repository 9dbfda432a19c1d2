"""What a run leaves behind for the rules: every visit of a call, every attribute store, every event on an object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Facts
from loradoctor.lint.flow.layers import Entries, Layer, change
from loradoctor.lint.flow.values import Oid, Unknown, Value
from loradoctor.lint.record import record

if TYPE_CHECKING:
    from loradoctor.lint.flow.memory import Record


Heap = Entries[Oid, Facts]


@dataclass(frozen=True, slots=True)
class Binding:
    """The arguments of a call by parameter name.

    ``open`` when an unpacked argument could have set anything not named; ``unseen`` tells what it set in one call from what
    it set in another.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    args: Mapping[str, ir.Arg] = field(default_factory=dict)
    open: bool = False
    positional: tuple[Value, ...] = ()
    unseen: str = ""

    def get(self, name: str) -> Value | None:
        """The argument, :class:`Unknown` when it could have been passed unseen, None when it was not passed."""
        found = self.values.get(name)
        if found is None and self.open:
            return Unknown(f"unseen:{name}{self.unseen}")
        return found


@record
class Visit:
    """One arrival at a call on one path: what was called on what with which arguments, and the heap at that moment."""

    node: ir.Call
    name: str
    receiver: Value | None
    binding: Binding
    heap: Mapping[Oid, Facts]
    result: Value
    step: int


@record
class Store:
    """``receiver.name = value`` on one path."""

    node: ir.Stmt
    receiver: Value
    name: str
    value: Value
    expr: ir.Expr
    heap: Mapping[Oid, Facts]


@dataclass(slots=True)
class Trace:
    """Everything a run recorded; ``defaults`` are values that unknown settings have unless their user says otherwise.

    ``complete`` unless some path was not followed to its end; then ``followed`` is how many visits were made before.
    """

    visits: list[Visit] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    events: dict[tuple[str, Oid], list[ir.Node]] = field(default_factory=dict)
    defaults: dict[str, Value] = field(default_factory=dict)
    complete: bool = True
    followed: int | None = None
    records: list[Record] = field(default_factory=list)

    def cut_short(self, *, since: int | None = None) -> None:
        """A path is not followed any further; where it may be one that has been no place yet, ``since`` so many visits."""
        self.complete = False
        seen = len(self.visits) if since is None else since
        self.followed = seen if self.followed is None else min(seen, self.followed)

    def saw_all(self, steps: Iterable[int]) -> bool:
        """Whether visits with these numbers were made while every path was still followed."""
        return self.complete or all(step < (self.followed or 0) for step in steps)

    def event(self, kind: str, oid: Oid, node: ir.Node) -> None:
        """Remember that ``kind`` happened to an object on some path."""
        self.events.setdefault((kind, oid), []).append(node)
        for each in self.records:
            each.events.append((kind, oid, node))

    def saw(self, visit: Visit, heap: Heap, since: Mapping[Oid, Facts]) -> None:
        """Remember a visit like this one, with a heap that is handed over and what has changed ``since``."""
        now = heap.merged() if isinstance(heap, Layer) else heap
        change(now, since)
        made = Visit(visit.node, visit.name, visit.receiver, visit.binding, now, visit.result, len(self.visits))
        self.visits.append(made)
        for level, each in enumerate(reversed(self.records)):
            each.visits.append((made, _changes(heap, level, since)))

    def stored(self, store: Store, heap: Heap, since: Mapping[Oid, Facts]) -> None:
        """Remember an assignment like this one; as with a visit."""
        now = heap.merged() if isinstance(heap, Layer) else heap
        change(now, since)
        made = Store(store.node, store.receiver, store.name, store.value, store.expr, now)
        self.stores.append(made)
        for level, each in enumerate(reversed(self.records)):
            each.stores.append((made, _changes(heap, level, since)))


def _changes(heap: Heap, level: int, since: Mapping[Oid, Facts]) -> dict[Oid, Facts]:
    return {**heap.changes(level), **since} if isinstance(heap, Layer) else dict(since)
