"""Conditions: what a path remembers of the ways it took, and what follows from it.

A condition is a string and holds or does not. Two kinds are made of others, joined as literals (``+cond`` or ``-cond``):
``all`` holds when each of them does, and is the value of a flag computed by ``and`` and ``or``; ``any``, of which only the
true one is remembered, says that at least one does, which is what is left when the ways of an ``or`` are joined.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from loradoctor.lint.flow.layers import ANY, GONE, Entries, Layer, told

if TYPE_CHECKING:
    from loradoctor.lint.flow.state import State

Ways = tuple[list["State"], list["State"]]
Literal = tuple[str, bool]

_ALL, _MARK = "all\0", "any"


def every(literals: Iterable[Literal]) -> str:
    """The condition that all of these hold: itself where it is one."""
    found = list(literals)
    if len(found) == 1:
        condition, holds = found[0]
        return condition if holds else f"not {condition}"
    return _ALL + "\0".join(f"{'+' if holds else '-'}{condition}" for condition, holds in found)


def _split(compound: str) -> list[Literal]:
    return [(part[1:], part[0] == "+") for part in compound.split("\0")[1:]]


def plain(literals: Iterable[Literal]) -> bool:
    """Whether conditions can be joined: none of them is made of others."""
    return not any("\0" in condition or condition == _MARK for condition, _ in literals)


def holds(condition: str, state: State) -> bool | None:
    """Whether a path has settled a condition."""
    if condition.startswith("not "):
        inner = holds(condition[4:], state)
        return None if inner is None else not inner
    known = state.conds.get(condition)
    if known is not None:
        return known
    if condition.startswith(_ALL):
        answers = [(holds(part, state), wanted) for part, wanted in _split(condition)]
        if any(answer is (not wanted) for answer, wanted in answers):
            return False
        return True if all(answer is wanted for answer, wanted in answers) else None
    return _implied(condition, state) if _MARK in state.conds else None


def _implied(condition: str, state: State) -> bool | None:
    """What is left of a clause all of whose other parts have turned out not to hold."""
    for clause, _ in told(state.conds, ANY + condition):
        if condition in clause:
            parts = _split(clause)
            wanted = dict(parts).get(condition)
            if wanted is not None and all(state.conds.get(part) is (not want) for part, want in parts if part != condition):
                return wanted
    return None


REMEMBERED = 500


def fork(condition: str | None, state: State) -> Ways:
    """Go both ways, unless the path has been here before."""
    if condition is None:
        return [state], [state.fork()]
    if condition.startswith("not "):
        yes, no = fork(condition[4:], state)
        return no, yes
    known = holds(condition, state)
    if known is not None:
        return ([state], []) if known else ([], [state])
    other = state.fork()
    if condition.startswith(_ALL):
        open_ = [(part, wanted) for part, wanted in _split(condition) if holds(part, state) is None]
        state.conds.update(open_)
        for part, _ in open_:
            state.run.ask(part)
        exclude(open_, other)
    else:
        state.conds[condition], other.conds[condition] = True, False
        state.run.ask(condition)
    for each in (state, other):
        if len(each.conds) > REMEMBERED:  # every test asks about all of them
            del each.conds[next(iter(each.conds))]
    return [state], [other]


def exclude(literals: list[Literal], state: State) -> None:
    """Remember that not all of these hold."""
    if len(literals) == 1:
        condition, wanted = literals[0]
        state.conds[condition] = not wanted
    else:
        condition = ANY + "\0".join(f"{'-' if wanted else '+'}{condition}" for condition, wanted in literals)
        state.conds[_MARK] = state.conds[condition] = True
    state.run.ask(condition)


def learned(state: State, before: Entries[str, bool]) -> list[Literal]:
    """The conditions a path has settled since ``before``, which it held then."""
    if isinstance(state.conds, Layer):
        return [(c, held) for c, held in state.conds.own.items() if held is not GONE and before.get(c) is not held]
    return [(c, held) for c, held in state.conds.items() if before.get(c) is not held]


def files_changed(state: State) -> None:
    """Something was written: whether a file or directory is there has to be asked again."""
    for condition in [c for c in state.conds if any(asked in c for asked in _ABOUT_FILES)]:
        del state.conds[condition]


_ABOUT_FILES = ("exists(", "isdir(", "isfile(", "is_dir(", "is_file(", "listdir(")


def forget(name: str, state: State) -> None:
    """The value of this name is made anew: what was known of the one before says nothing of it."""
    if isinstance(state.conds, Layer):
        state.conds.forget(name, said=state.run.mentions(name))
    elif state.run.mentions(name):
        for condition in [c for c in state.conds if name in c]:
            del state.conds[condition]


def parted(one: State, other: State) -> tuple[list[Literal], list[Literal]]:
    """The conditions that each of two paths has alone; the first is left with those they share."""
    mine, others = one.conds, other.conds
    if isinstance(mine, Layer) and isinstance(others, Layer) and mine.base is others.base:
        keys = [*(k for k in others.own if k not in mine.own), *mine.own]
        ways = [(k, mine.get(k), others.get(k)) for k in keys]
        mine.own.update({k: GONE for k, held, failed in ways if held is not failed})
        alone = [(k, held) for k, held, failed in ways if held is not None and held is not failed]
        keys = [*(k for k in mine.own if k not in others.own), *others.own]
        return alone, [(k, failed) for k in keys if (failed := others.get(k)) is not None and mine.get(k) is not failed]
    shared = {k: v for k, v in mine.items() if others.get(k) is v}
    found = learned(one, shared), learned(other, shared)
    one.conds = shared
    return found
