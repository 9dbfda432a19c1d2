"""Tests: which way a path goes, and what it remembers of having gone there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import evaluate, loops
from loradoctor.lint.flow.conditions import Ways, exclude, fork, holds, learned, plain
from loradoctor.lint.flow.layers import Entries, told
from loradoctor.lint.flow.predicates import compare, counted, is_instance, refine
from loradoctor.lint.flow.values import Function, Items, Known, Many, Method, Obj, Partial, Ref, Table, Unknown, UserClass, Value

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine
    from loradoctor.lint.flow.state import State


def branch(machine: Machine, test: ir.Expr, state: State, scope: int) -> Ways:
    """The paths on which ``test`` holds and those on which it does not."""
    match test:
        case ir.Not(value=inner):
            yes, no = branch(machine, inner, state, scope)
            return no, yes
        case ir.BoolOp(op=op, left=left, right=right):
            return _both(machine, op, left, right, state, scope)
        case ir.Compare(op="is" | "==" | "is not" | "!=" as op, left=left, right=right):
            yes, no = _compare(machine, left, right, state, scope)
            return (no, yes) if op in ("is not", "!=") else (yes, no)
        case ir.Compare(op="in" | "not in" as op, left=left, right=ir.Sequence(items=options)) if _literals(options):
            yes, no = _one_of(machine, left, options, state, scope)
            return (no, yes) if op == "not in" else (yes, no)
        case ir.Name(id=name):
            setting = state.vars.get((machine.root(scope), name))
            if isinstance(setting, Known) and isinstance(setting.value, bool) and machine.assigned[name] == 1 and scope >= 0:
                return _setting(machine.root(scope), name, setting.value, machine.lookup(name, scope, state), state)
    taken_any: list[State] = []
    skipped_any: list[State] = []
    for value, after in evaluate.evaluate(machine, test, state, scope):
        taken, skipped = truth(value, after, test)
        taken_any += taken
        skipped_any += skipped
    return taken_any, skipped_any


def _literals(options: tuple[ir.Expr, ...]) -> bool:
    return 0 < len(options) <= 6 and all(isinstance(o, ir.Const) for o in options)


def _one_of(machine: Machine, left: ir.Expr, options: tuple[ir.Expr, ...], state: State, scope: int) -> Ways:
    """``left in (…literals…)``: one condition, which later comparisons with one literal know of."""
    literals = [o.value for o in options if isinstance(o, ir.Const)]
    yes: list[State] = []
    no: list[State] = []
    for value, after in evaluate.evaluate(machine, left, state, scope):
        if isinstance(value, Known):
            taken, skipped = ([after], []) if value.value in literals else ([], [after])
        elif isinstance(value, Unknown):
            settled = next((c for c, held in _options(value.key, after) if held and c.startswith(f"{value.key}==")), None)
            if settled is not None:
                inside = settled.partition("==")[2] in [repr(literal) for literal in literals]
                taken, skipped = ([after], []) if inside else ([], [after])
            else:
                taken, skipped = fork(f"{value.key} in |{'|'.join(repr(literal) for literal in literals)}|", after)
        else:
            taken, skipped = fork(None, after)
        yes += taken
        no += skipped
    return yes, no


def _options(key: str, state: State) -> tuple[tuple[str, bool], ...]:
    return told(state.conds, key)


def _excluded(key: str, label: str, state: State) -> bool:
    """Whether the path has already settled that the value of ``key`` is not ``label``."""
    if state.conds.get(f"{key}=={label}") is not None:
        return False
    for condition, held in _options(key, state):
        if held and condition.startswith(f"{key}=="):
            return True
        if condition.startswith(f"{key} in |") and held is not (f"|{label}|" in condition):
            return True
    return False


def _both(machine: Machine, op: str, left: ir.Expr, right: ir.Expr, state: State, scope: int) -> Ways:
    before = state.conds.copy()
    yes, no = branch(machine, left, state, scope)
    decided, open_ = (no, yes) if op == "and" else (yes, no)
    taken: list[State] = []
    skipped: list[State] = []
    for each in open_:
        t, s = branch(machine, right, each, scope)
        taken += t
        skipped += s
    if op == "and":
        return taken, _joined(machine, decided, skipped, taken, before)
    return _joined(machine, decided, taken, skipped, before), skipped


def _joined(machine: Machine, one: list[State], other: list[State], opposite: list[State], before: Entries[str, bool]) -> list[State]:
    """The two ways an ``or`` can hold, or an ``and`` not: joined, they remember that it is one of them."""
    if one and other and len(opposite) == 1:
        literals = learned(opposite[0], before)
        if len(literals) > 1 and plain(literals):
            for each in (*one, *other):
                exclude(literals, each)
    return machine.join(one + other)


def _setting(root: int, name: str, value: bool, seen: Value, state: State) -> Ways:
    """A module-level switch assigned once: the user flips it, so both ways are real, and each remembers its setting."""
    if seen != Known(value):
        return truth(seen, state)
    condition = f"setting:{root}:{name}"
    if condition in state.conds:
        return ([state], []) if state.conds[condition] else ([], [state])
    other = state.fork()
    other.vars[root, name] = Known(not value)
    state.conds[condition], other.conds[condition] = value, not value
    state.run.ask(condition)
    return ([state], [other]) if value else ([other], [state])


def _compare(machine: Machine, left: ir.Expr, right: ir.Expr, state: State, scope: int) -> Ways:
    if isinstance(left, ir.Name) and left.id == "__name__":
        return ([state], []) if machine.root(scope) == 0 else ([], [state])
    yes: list[State] = []
    no: list[State] = []
    for one, middle in evaluate.evaluate(machine, left, state, scope):
        for two, after in evaluate.evaluate(machine, right, middle, scope):
            taken, skipped = _equal(machine, one, two, after)
            yes += taken
            no += skipped
    return yes, no


def _equal(machine: Machine, one: Value, two: Value, state: State) -> Ways:
    if isinstance(one, Known) and isinstance(two, Known):
        return ([state], []) if one == two else ([], [state])
    decided = compare(machine, one, "==", two)
    if decided is not None:
        return ([state], []) if decided else ([], [state])
    if isinstance(one, Known):
        one, two = two, one
    if isinstance(two, Known) and two.value is None:
        if not isinstance(one, Unknown) or one.key in state.heap:
            return ([], [state]) if _is_object(one, state) else fork(None, state)
        if holds(one.key, state):
            return [], [state]
        return fork(f"{one.key} is None", state)
    inside = counted(one) if two == Known(0) else None
    if inside is not None:
        yes, no = truth(inside, state)
        return no, yes
    if isinstance(one, Unknown) and isinstance(two, Known) and isinstance(two.value, bool):
        if state.conds.get(f"{one.key} is None"):
            return [], [state]
        yes, no = truth(one, state)
        return (yes, no) if two.value else (no, yes)
    if isinstance(one, Unknown) and isinstance(two, (Known, Unknown, Ref)):
        return fork_on(one, two, state)
    return ([state], []) if one == two else fork(None, state)


def fork_on(one: Unknown, two: Known | Unknown | Ref, state: State) -> Ways:
    """The paths on which an unknown value is this one, and those on which it is not."""
    if isinstance(two, Unknown) and _ELEMENT.fullmatch(two.key):
        one, two = two, one
    label = repr(two.value) if isinstance(two, Known) else str(two)
    if _excluded(one.key, label, state) or _was_another(one.key, label, state):
        return [], [state]
    return fork(f"{one.key}=={label}", state)


_ELEMENT = re.compile(r"item\d+(@[^.\[(]*(\[0\])?)")
"""The element of a turn of a loop, or what such elements begin with: their names, most often."""


def _was_another(key: str, label: str, state: State) -> bool:
    """Whether an element of another turn was this value: ``if path == paths[0]`` holds once."""
    element = _ELEMENT.fullmatch(key)
    if element is None:
        return False
    others = (f"item{turn}{element[1]}" for turn in range(loops.MOST_TURNS))
    return any(state.conds.get(f"{other}=={label}") for other in others if other != key)


def matching(machine: Machine, case: ir.Case, subject: Value, states: list[State], scope: int) -> Ways:
    """The paths on which a value matches the pattern of a ``case``, its guard aside."""
    if case.wildcard:
        return states, []
    taken: list[State] = []
    left = states
    for literal in case.literals:
        ways = [_equal(machine, subject, Known(literal), each) for each in left]
        taken += [each for yes, _ in ways for each in yes]
        left = [each for _, no in ways for each in no]
    if case.literals:
        return machine.join(taken), left
    skipped: list[State] = []
    for each in states:
        answer = None
        if case.cls is not None:
            cls, each = evaluate.single(machine, case.cls, each, scope)  # noqa: PLW2901 -- the same path
            answer = is_instance(subject, cls, each)
        yes, no = truth(answer, each, case.cls) if answer is not None else fork(None, each)
        taken += yes
        skipped += no
    return taken, skipped


def _is_object(value: Value, state: State) -> bool:
    return isinstance(value, (Items, Many, Table, Function, UserClass, Ref, Method, Partial)) or state.oid(value) is not None


def truth(value: Value, state: State, test: ir.Node | None = None) -> Ways:
    """The paths on which a value is true, and those on which it is not."""
    match value:
        case Known(value=known):
            return ([state], []) if known else ([], [state])
        case Items(items=items):
            return ([state], []) if items else ([], [state])
        case Obj() | Ref() | Function() | UserClass() | Method() | Partial():
            return [state], []
        case Unknown() if (inside := counted(value)) is not None:
            return truth(inside, state)
        case Unknown(key=key):
            if state.conds.get(f"{key} is None"):
                return [], [state]
            whose, equals, label = key.rpartition("==")
            if equals and not key.startswith("not ") and "\0" not in key and _excluded(whose, label, state):
                return [], [state]
            yes, no = fork(key, state)
            if test is not None and yes and key.endswith(")"):
                refine(key, yes[0], test)
            return yes, no
        case _:
            return fork(None, state)
