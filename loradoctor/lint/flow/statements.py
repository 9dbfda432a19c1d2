"""Statements: runs blocks over sets of paths, forking at branches and joining paths that led to the same world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import conditions, contexts, definitions, evaluate, exceptions, imports, loops, memory, survey, targets
from loradoctor.lint.flow.conditions import Ways
from loradoctor.lint.flow.facts import Peft
from loradoctor.lint.flow.guards import branch, matching
from loradoctor.lint.flow.state import State, merge_equal
from loradoctor.lint.flow.values import (
    NONE,
    Value,
)

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

STEPS = 25_000
"""Statements run before the analysis of a file is cut short; the longest script of the labelled corpus takes 9,000."""


ALONE = 6_000
"""Those of a function run by itself, before the next one is. In public training code they take 5,200 at most, in libraries 25,000."""


class Exhausted(Exception):
    """The step budget is spent."""


@dataclass(slots=True)
class Flow:
    """Where the paths through a block went."""

    normal: list[State]
    returned: list[tuple[Value, State]] = field(default_factory=list)
    broke: list[State] = field(default_factory=list)
    continued: list[State] = field(default_factory=list)
    raised: list[tuple[str, State]] = field(default_factory=list)

    def absorb(self, other: Flow) -> None:
        """Take over everything but the normal ends of another flow."""
        self.returned += other.returned
        self.broke += other.broke
        self.continued += other.continued
        self.raised += other.raised


def block(machine: Machine, body: Sequence[ir.Stmt], states: list[State], scope: int = 0) -> Flow:
    """Run statements in order over every path."""
    flow = Flow(states)
    for statement in body:
        if not flow.normal:
            break
        after: list[State] = []
        kind = type(statement)
        handler, once, several = _HANDLERS[kind], kind in _ONCE, len(flow.normal) > 1
        for state in flow.normal:
            machine.steps += 1
            if machine.steps > machine.limit:
                raise Exhausted
            step = handler(machine, statement, state, scope) if once else _step(machine, handler, statement, state, scope, several)
            after += step.normal
            flow.absorb(step)
        flow.normal = machine.join(after)
    return flow


def _step(machine: Machine, handler: Callable[..., Flow], node: ir.Stmt, state: State, scope: int, several: bool) -> Flow:
    """Run a statement, or do again what it has done."""
    found = memory.look(machine, node, state, scope, several=several)
    if found is None:
        return handler(machine, node, state, scope)
    if isinstance(found, list):
        ends = memory.recorded(machine, node, found, state, scope, lambda: _ends(handler(machine, node, state, scope)))
    else:
        ends = memory.again(machine, found, state, scope)
    normal, returned, broke, continued, raised = ends
    return Flow([s for _, s in normal], returned, [s for _, s in broke], [s for _, s in continued], raised)


def _ends(flow: Flow) -> memory.Ends:
    return ([(None, s) for s in flow.normal], flow.returned, [(None, s) for s in flow.broke], [(None, s) for s in flow.continued], flow.raised)


def _tested(machine: Machine, test: ir.Expr, state: State, scope: int) -> Ways:
    """The paths on which a test holds and those on which it does not, found or done again."""
    found = memory.look(machine, test, state, scope, several=False)
    if found is None:
        return branch(machine, test, state, scope)
    if isinstance(found, list):
        ends = memory.recorded(machine, test, found, state, scope, lambda: tuple([(None, s) for s in w] for w in branch(machine, test, state, scope)))
    else:
        ends = memory.again(machine, found, state, scope)
    return [s for _, s in ends[0]], [s for _, s in ends[1]]


def _assign(machine: Machine, node: ir.Assign, state: State, scope: int) -> Flow:
    outcomes = evaluate.evaluate(machine, node.value, state, scope)
    for value, after in outcomes:
        for target in node.targets:
            targets.store(machine, node, target, value, node.value, after, scope)
    return Flow([after for _, after in outcomes])


def _augment(machine: Machine, node: ir.Augment, state: State, scope: int) -> Flow:
    outcomes = evaluate.evaluate(machine, node.value, state, scope)
    for _, after in outcomes:
        if isinstance(node.target, ir.Name):
            machine.bind(node.target.id, machine.fresh(node.uid, after), scope, after)
    return Flow([after for _, after in outcomes])


def _evaluate_only(machine: Machine, node: ir.Evaluate, state: State, scope: int) -> Flow:
    outcomes = evaluate.evaluate(machine, node.value, state, scope)
    return Flow([after for value, after in outcomes if value != evaluate.NEVER])


def _if(machine: Machine, node: ir.If, state: State, scope: int) -> Flow:
    flow = _conditional(machine, node, state, scope)
    if len(flow.normal) > 1 and _is_inert(machine, node):
        flow.normal = merge_equal(flow.normal, 1)[0]
    return flow


def _is_inert(machine: Machine, node: ir.If) -> bool:
    """Whether it makes no difference to any rule which way a conditional goes."""
    known = machine.inert.get(node.uid)
    if known is None:
        known = machine.inert[node.uid] = survey.is_inert(node, machine.interesting)
    return known


def _conditional(machine: Machine, node: ir.If, state: State, scope: int) -> Flow:
    before = set(state.conds) if machine.elements else set()
    taken, skipped = _tested(machine, node.test, state, scope)
    machine.guard_depth += 1
    then = block(machine, node.body, taken, scope) if taken else Flow([])
    if taken and skipped and then.normal and loops.tests_element(machine, node.test, taken + skipped, before):
        skipped, then.normal = then.normal, []  # some elements go this way and the others that
        for each in skipped:
            for element in machine.elements:
                conditions.forget(element, each)
    other = block(machine, node.orelse, skipped, scope) if skipped else Flow([])
    machine.guard_depth -= 1
    then.absorb(other)
    then.normal += other.normal
    return then


def _for(machine: Machine, node: ir.For, state: State, scope: int) -> Flow:
    return loops.for_loop(machine, node, state, scope)


def _while(machine: Machine, node: ir.While, state: State, scope: int) -> Flow:
    return loops.while_loop(machine, node, state, scope)


def _with(machine: Machine, node: ir.With, state: State, scope: int) -> Flow:
    expecting = any(survey.expects_failure(context) for context, _ in node.items)
    machine.expecting += expecting
    flow = contexts.inside(machine, node, node.items, state, scope)
    machine.expecting -= expecting
    return flow


def _try(machine: Machine, node: ir.Try, state: State, scope: int) -> Flow:
    return exceptions.attempt(machine, node, state, scope)


def _match(machine: Machine, node: ir.Match, state: State, scope: int) -> Flow:
    result = Flow([])
    for subject, begin in evaluate.evaluate(machine, node.subject, state, scope):
        left = [begin]
        for number, case in enumerate(node.cases):
            taken, skipped = matching(machine, case, subject, left, scope)
            for each in taken:
                for name in case.names:
                    machine.bind(name, subject if case.wildcard else machine.fresh(node.uid + number, each), scope, each)
            if case.guard is not None:
                ways = [branch(machine, case.guard, each, scope) for each in taken]
                taken = [each for yes, _ in ways for each in yes]
                skipped += [each for _, no in ways for each in no]
            step = block(machine, case.body, taken, scope)
            result.normal += step.normal
            result.absorb(step)
            left = machine.join(skipped)
        result.normal += left
    return result


def _function(machine: Machine, node: ir.Function, state: State, scope: int) -> Flow:
    return definitions.function(machine, node, state, scope)


def _class(machine: Machine, node: ir.Class, state: State, scope: int) -> Flow:
    return definitions.class_(machine, node, state, scope)


def _return(machine: Machine, node: ir.Return, state: State, scope: int) -> Flow:
    if node.value is None:
        return Flow([], returned=[(NONE, state)])
    outcomes = evaluate.evaluate(machine, node.value, state, scope)
    if len(machine.stack) == 1 and machine.uncalled:
        for value, after in outcomes:
            facts = after.get(value, Peft)
            oid = after.oid(value)
            if facts is not None and facts.gutted is not None and oid is not None:
                machine.trace.event("returned", oid, node)
    return Flow([], returned=outcomes)


def _leave(machine: Machine, node: ir.Leave, state: State, scope: int) -> Flow:
    if node.value is not None:
        evaluate.single(machine, node.value, state, scope)
    if node.how == "break":
        return Flow([], broke=[state])
    if node.how == "continue":
        return Flow([], continued=[state])
    return Flow([], raised=[(_exception(node.value), state)])


def _exception(value: ir.Expr | None) -> str:
    """The name of what is raised; nothing when it is raised again."""
    named = value.func if isinstance(value, ir.Call) else value
    return named.id if isinstance(named, ir.Name) else named.name if isinstance(named, ir.Attr) else ""


def _import(machine: Machine, node: ir.Import, state: State, scope: int) -> Flow:
    machine.give_up()
    for name, dotted in node.bindings:
        machine.imports.add(dotted.partition(".")[0])
        if name == "*":
            imports.bind_all(machine, dotted, scope, state)
        else:
            machine.bind(name, imports.imported(machine, dotted, scope, state), scope, state)
    return Flow([state])


def _delete(_: Machine, node: ir.Delete, state: State, scope: int) -> Flow:
    for target in node.targets:
        if isinstance(target, ir.Name):
            state.vars.pop((scope, target.id), None)
    return Flow([state])


def _assert(machine: Machine, node: ir.Assert, state: State, scope: int) -> Flow:
    return Flow(branch(machine, node.test, state, scope)[0])


def _outer(machine: Machine, node: ir.Outer, state: State, scope: int) -> Flow:
    for name in node.names:
        home: int | None = machine.root(scope) if node.kind == "global" else machine.scopes[scope].parent
        while node.kind == "nonlocal" and home and (home, name) not in state.vars:
            home = machine.scopes[home].parent
        machine.scopes[scope].aliases[name] = machine.root(scope) if home is None else home
    return Flow([state])


_ONCE = frozenset({ir.Function, ir.Class, ir.Import, ir.Outer})
"""Statements that make something of the program known, not only of a path."""

_HANDLERS: dict[type[ir.Stmt], Callable[..., Flow]] = {
    ir.Assign: _assign,
    ir.Augment: _augment,
    ir.Evaluate: _evaluate_only,
    ir.If: _if,
    ir.For: _for,
    ir.While: _while,
    ir.With: _with,
    ir.Try: _try,
    ir.Match: _match,
    ir.Function: _function,
    ir.Class: _class,
    ir.Return: _return,
    ir.Leave: _leave,
    ir.Import: _import,
    ir.Delete: _delete,
    ir.Assert: _assert,
    ir.Outer: _outer,
}
