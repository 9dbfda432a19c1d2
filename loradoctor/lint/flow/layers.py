"""A path as changes to an earlier one: what was looked at of the earlier one is remembered, and what was changed."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

GONE: Any = object()
"""Stands for an entry that was removed."""

ANY = "any\0"
"""How a condition begins that is made of others, of which at least one holds."""


class Reads:
    """What was looked at of the four dictionaries of a path; ``void`` when it was more than can be told again."""

    __slots__ = ("attrs", "bound", "conds", "heap", "questions", "vars", "void", "whole")

    def __init__(self) -> None:
        self.vars: dict[Any, Any] = {}
        self.heap: dict[Any, Any] = {}
        self.attrs: dict[Any, Any] = {}
        self.conds: dict[Any, Any] = {}
        self.questions: dict[str, tuple[tuple[str, bool], ...]] = {}
        self.whole = False
        self.bound = False
        self.void = False


class Layer(Generic[K, V]):
    """A dictionary that is another one with changes; copies share the other one, which must not change meanwhile."""

    __slots__ = ("base", "forgot", "own", "reads", "seen")

    def __init__(self, base: Entries[K, V], seen: dict[K, V | None], reads: Reads) -> None:
        self.base = base
        self.own: dict[K, V] = {}
        self.seen = seen
        self.reads = reads
        self.forgot: dict[str, None] = {}

    def copy(self) -> Layer[K, V]:
        """Another one with the same changes."""
        other: Layer[K, V] = Layer.__new__(Layer)
        other.base, other.seen, other.reads = self.base, self.seen, self.reads
        other.own, other.forgot = self.own.copy(), self.forgot.copy()
        return other

    # -- one entry

    def get(self, key: K, default: V | None = None) -> V | None:
        """The value of an entry."""
        if key in self.own:
            value = self.own[key]
            return default if value is GONE else value
        held = self.seen[key] = self.base.get(key)
        return default if held is None else held

    def peek(self, key: K) -> V | None:
        """The value of an entry, which does not count as looked at."""
        if key in self.own:
            value = self.own[key]
            return None if value is GONE else value
        return self.base.peek(key) if isinstance(self.base, Layer) else self.base.get(key)

    def __getitem__(self, key: K) -> V:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: K) -> bool:
        return self.get(key) is not None

    def __setitem__(self, key: K, value: V) -> None:
        if self.own.get(key) is GONE:
            del self.own[key]
        self.own[key] = value

    def __delitem__(self, key: K) -> None:
        self.own[key] = GONE

    def pop(self, key: K, default: T) -> V | T:
        """Remove an entry and give its value."""
        value = self.get(key)
        if value is None:
            return default
        self.own[key] = GONE
        return value

    def setdefault(self, key: K, default: V) -> V:
        """The value of an entry, which is made where there is none."""
        value = self.get(key)
        if value is None:
            value = self.own[key] = default
        return value

    def update(self, other: Mapping[K, V] | Iterable[tuple[K, V]]) -> None:
        """Set several entries."""
        for key, value in other.items() if isinstance(other, Mapping) else other:
            self[key] = value

    # -- all of them

    def merged(self) -> dict[K, V]:
        """A plain dictionary; nothing counts as looked at."""
        whole = plain(self.base)
        change(whole, self.own, anew=self.seen is self.reads.conds)
        return whole

    def changes(self, level: int) -> dict[K, V]:
        """What differs from the dictionary ``level`` layers further down."""
        if not level or not isinstance(self.base, Layer):
            return dict(self.own)
        return {**self.base.changes(level - 1), **self.own}

    def bind(self) -> None:
        """What was done has to do with the very scope it was done in."""
        self.reads.bound = True
        if isinstance(self.base, Layer):
            self.base.bind()

    def whole(self) -> dict[K, V]:
        """A plain dictionary; all of it counts as looked at."""
        if self.seen is self.reads.conds:
            self.reads.whole = True
        else:
            self.reads.void = True
        if isinstance(self.base, Layer):
            self.base.whole()
        return self.merged()

    def __iter__(self) -> Iterator[K]:
        return iter(self.whole())

    def keys(self) -> KeysView[K]:
        """The keys."""
        return self.whole().keys()

    def values(self) -> ValuesView[V]:
        """The values."""
        return self.whole().values()

    def items(self) -> ItemsView[K, V]:
        """The entries."""
        return self.whole().items()

    def __len__(self) -> int:
        # An upper bound, which is all that is asked for.
        return len(self.base) + len(self.own)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layer) or other.base is not self.base:
            return self.whole() == (other.whole() if isinstance(other, Layer) else other)
        mine, others = self.own, other.own
        if mine.keys() == others.keys():
            return mine == others
        if any(self.get(key) != other.get(key) for key in mine.keys() ^ others.keys()):
            return False
        common = mine.keys() & others.keys()
        return list(map(mine.get, common)) == list(map(others.get, common))

    __hash__ = None  # type: ignore[assignment]

    # -- conditions

    def forget(self: Layer[str, bool], name: str, *, said: bool) -> None:
        """Remove what is ``said`` about a name, whatever that is: to be done again wherever the changes are made again."""
        self.forgot[name] = None
        if said:
            self.own.update(dict.fromkeys([key for key in self.merged() if name in key], GONE))

    def told(self: Layer[str, bool], question: str) -> tuple[tuple[str, bool], ...]:
        """See :func:`told`; counts as one thing looked at."""
        if question not in self.reads.questions:
            self.reads.questions[question] = told(self.base, question)
        return told(self.merged(), question)


Entries = dict[K, V] | Layer[K, V]


def plain(entries: Entries[K, V]) -> dict[K, V]:
    """A copy that is no layer of anything; nothing counts as looked at."""
    return entries.merged() if isinstance(entries, Layer) else entries.copy()


def plainly(entries: Entries[K, V]) -> Callable[[K], object]:
    """What gives an entry without its being looked at."""
    return entries.peek if isinstance(entries, Layer) else entries.get


def told(conds: Entries[str, bool], question: str) -> tuple[tuple[str, bool], ...]:
    """The conditions that tell which value an unknown one is or, after :data:`ANY`, of which one is said to hold."""
    if isinstance(conds, Layer):
        return conds.told(question)
    if question.startswith(ANY):
        part = question[len(ANY) :]
        return tuple([(k, v) for k, v in conds.items() if part in k and k.startswith(ANY)])
    prefixes = (f"{question}==", f"{question} in |")
    return tuple([(k, v) for k, v in conds.items() if k.startswith(prefixes)])


def change(entries: Entries[K, V], changes: Mapping[K, V], *, anew: bool = False) -> None:
    """Make changes; with ``anew`` what is set comes last, as where it was removed before."""
    for key, value in changes.items():
        if anew or value is GONE:
            entries.pop(key, None)
        if value is not GONE:
            entries[key] = value
