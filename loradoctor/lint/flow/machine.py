"""Statements: runs blocks over sets of paths, forking at branches and joining paths that led to the same world."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loradoctor.lint import ir
from loradoctor.lint.flow import calls, evaluate, imports, survey
from loradoctor.lint.flow.facts import Peft
from loradoctor.lint.flow.guards import branch
from loradoctor.lint.flow.state import State, merge_equal
from loradoctor.lint.flow.trace import Store, Trace
from loradoctor.lint.flow.values import (
    NONE,
    Function,
    Items,
    Known,
    Obj,
    Ref,
    Table,
    Unknown,
    UserClass,
    Value,
)
from loradoctor.lint.libraries import canonical
from loradoctor.lint.libraries.effects import on_store
from loradoctor.lint.project import Project

PATHS = 12
"""How many different worlds are followed side by side. Real training scripts stay below 8 after joining (labelled corpus)."""
STEPS = 25_000
"""Statements run before the analysis of a file is cut short; the longest script of the labelled corpus takes 9,000."""


class Exhausted(Exception):
    """The step budget is spent."""


@dataclass(slots=True)
class Flow:
    """Where the paths through a block went."""

    normal: list[State]
    returned: list[tuple[Value, State]] = field(default_factory=list)
    broke: list[State] = field(default_factory=list)
    continued: list[State] = field(default_factory=list)

    def absorb(self, other: Flow) -> None:
        """Take over everything but the normal ends of another flow."""
        self.returned += other.returned
        self.broke += other.broke
        self.continued += other.continued


@dataclass(slots=True)
class Scope:
    """A namespace: the one around it, and the names that belong to other scopes."""

    parent: int | None
    is_class: bool = False
    aliases: dict[str, int] = field(default_factory=dict)
    self_value: Value | None = None
    path: str = ""
    owner: UserClass | None = None


class Machine:
    """Runs one lowered program. ``trace`` holds what the rules will see."""

    def __init__(
        self,
        program: ir.Program,
        vocabulary: frozenset[str],
        project: Project | None = None,
        well_known: Mapping[str, str] | None = None,
    ) -> None:
        self.program = program
        self.vocabulary = vocabulary
        self.project = project
        self.well_known = well_known or {}
        self.modules: dict[str, int] = {}
        self.trace = Trace()
        self.scopes: dict[int, Scope] = {0: Scope(None, path=project.path if project else "")}
        self.stars: list[str] = []
        self.imports: set[str] = set()
        self.config_classes: set[str] = set()
        self.steps = 0
        self.stack: list[ir.Node] = []
        self.loop_depth = 0
        self.expecting = 0
        self.inert: dict[int, bool] = {}
        self.uncalled = False
        self.elements: list[str] = []
        self.element_names: list[set[str]] = []
        self.guard_depth = 0
        self.entered: set[int] = set()
        self.functions: list[tuple[Function, UserClass | None]] = []
        self.classes: list[UserClass] = []
        self.assigned = survey.count_assignments(program)
        self.interesting = survey.interesting_words(program, vocabulary)

    # -- the whole program

    def run(self) -> Trace:
        """Run the module, then every function and method that nothing in it called."""
        try:
            flow = self.block(self.program.body, [State()])
            worlds = flow.normal or [State()]
            self.run_uncalled(worlds[0])
        except Exhausted:
            self.trace.complete = False
        return self.trace

    def run_uncalled(self, world: State) -> None:
        self.functions = [(f, owner) for f, owner in self.functions if self.program.holds(f.node)]
        called = {w for f, _ in self.functions if isinstance(f.node, ir.Function) for w in f.node.words}
        pending = sorted(self.functions, key=lambda item: isinstance(item[0].node, ir.Function) and item[0].node.name in called)
        self.uncalled = True
        for function, owner in pending:
            if id(function.node) in self.entered or not self.worth_entering(function):
                continue
            if owner is not None and function.node.name == "__init__":  # type: ignore[union-attr]
                self.instance(owner, world.fork())
                continue
            if owner is None:
                calls.enter(self, function, None, self.unknown_arguments(function), world.fork())
                continue
            for receiver, state in self.instance(owner, world.fork())[:2]:
                calls.enter(self, function, receiver, self.unknown_arguments(function, skip=1), state)

    def instance(self, owner: UserClass, state: State) -> list[tuple[Value, State]]:
        """An object of a class of this file, built by its ``__init__`` with unknown arguments."""
        initialise = calls.find_method(owner, "__init__", state)
        return calls.construct(self, owner, None, state, self.unknown_arguments(initialise, skip=1) if initialise else None)

    def unknown_arguments(self, function: Function, skip: int = 0) -> dict[str, Value]:
        name = function.node.name if isinstance(function.node, ir.Function) else "lambda"
        arguments: dict[str, Value] = {}
        for param in function.node.params[skip:]:
            arguments[param.name] = Table((), complete=False) if param.star == "**" else Unknown(f"{name}({param.name})")
        return arguments

    def worth_entering(self, function: Function) -> bool:
        """Whether a function can do anything a rule looks at."""
        return not isinstance(function.node, ir.Function) or not self.interesting.isdisjoint(function.node.words)

    # -- names

    def lookup(self, name: str, scope: int, state: State) -> Value:
        """The value of a variable, looked up as Python does."""
        here: int | None = self.scopes[scope].aliases.get(name, scope)
        first = True
        while here is not None:
            found = state.vars.get((here, name))
            if found is not None and (first or not self.scopes[here].is_class):
                return found
            here, first = self.scopes[here].parent, False
        if name in BUILTINS:
            return Ref(f"builtins.{name}")
        for module in self.stars:
            return Ref(canonical(f"{module}.{name}"))
        if name in self.well_known:
            return Ref(self.well_known[name])
        return Unknown(f"name:{name}")

    def bind(self, name: str, value: Value, scope: int, state: State) -> None:
        """Assign a variable."""
        state.vars[self.scopes[scope].aliases.get(name, scope), name] = value

    def new_scope(self, parent: int, **options: object) -> int:
        """A namespace inside another."""
        number = len(self.scopes)
        while self.scopes[parent].is_class:
            parent = self.scopes[parent].parent or 0
        self.scopes[number] = Scope(parent, **options)  # type: ignore[arg-type]
        return number

    def new_module(self, path: str) -> int:
        """A namespace of its own for another file."""
        number = len(self.scopes)
        self.scopes[number] = Scope(None, path=path)
        return number

    def fresh(self, uid: int, state: State, hint: str = "value") -> Unknown:
        """An unknown that no other value equals: the ``k``-th made by this node on this path."""
        key, count = f"{hint}@{uid}", 0
        taken = [oid for oid in state.heap if isinstance(oid, str) and oid.startswith(key)]
        while any(survey.is_part(oid, f"{key}#{count}" if count else key) for oid in taken):
            count += 1
        name = f"{key}#{count}" if count else key
        for condition in [c for c in state.conds if c.startswith(name)]:
            del state.conds[condition]
        return Unknown(name)

    # -- blocks

    def block(self, body: Sequence[ir.Stmt], states: list[State], scope: int = 0) -> Flow:
        """Run statements in order over every path."""
        flow = Flow(states)
        for statement in body:
            if not flow.normal:
                break
            after: list[State] = []
            handler = _HANDLERS[type(statement)]
            for state in flow.normal:
                self.steps += 1
                if self.steps > STEPS:
                    raise Exhausted
                step = handler(self, statement, state, scope)
                after += step.normal
                flow.absorb(step)
            flow.normal = self.join(after)
        return flow

    def join(self, states: list[State]) -> list[State]:
        if len(states) < 2:
            return states
        joined, cut = merge_equal(states, PATHS)
        if cut:
            self.trace.complete = False
        return joined

    def assign(self, node: ir.Assign, state: State, scope: int) -> Flow:
        outcomes = evaluate.evaluate(self, node.value, state, scope)
        for value, after in outcomes:
            for target in node.targets:
                self.store(node, target, value, node.value, after, scope)
        return Flow([after for _, after in outcomes])

    def store(self, node: ir.Stmt, target: ir.Expr, value: Value, expr: ir.Expr, state: State, scope: int) -> None:
        """Bind a target: a name, an attribute, an item, or several by unpacking."""
        match target:
            case ir.Name(id=name):
                self.bind(name, value, scope, state)
            case ir.Attr(value=base, name=name):
                receiver, _ = evaluate.single(self, base, state, scope)
                self.store_attribute(node, receiver, name, value, expr, state)
            case ir.Subscript(value=ir.Name(id=name), index=index) if index is not None:
                table = self.lookup(name, scope, state)
                key, _ = evaluate.single(self, index, state, scope)
                if isinstance(table, Table):
                    known = isinstance(key, Known)
                    items = (*table.items, (key.value, value)) if isinstance(key, Known) else table.items
                    self.bind(name, Table(items, table.complete and known), scope, state)
                elif isinstance(table, Items):
                    self.bind(name, self.fresh(node.uid, state), scope, state)
            case ir.Sequence(items=targets):
                self.unpack(node, targets, value, expr, state, scope)
            case ir.Star(value=inner):
                self.store(node, inner, self.fresh(inner.uid, state), expr, state, scope)

    def unpack(self, node: ir.Stmt, targets: tuple[ir.Expr, ...], value: Value, expr: ir.Expr, state: State, scope: int) -> None:
        plain = not any(isinstance(t, ir.Star) for t in targets)
        for index, target in enumerate(targets):
            part: Value = evaluate.item_of(self, value, index, target.uid, state)
            if isinstance(value, Items) and (not plain or len(value.items) != len(targets)):
                part = self.fresh(target.uid, state)
            self.store(node, target, part, expr, state, scope)

    def store_attribute(self, node: ir.Stmt, receiver: Value, name: str, value: Value, expr: ir.Expr, state: State) -> None:
        """``receiver.name = value``."""
        self.trace.stores.append(Store(node, receiver, name, value, expr, dict(state.heap)))
        on_store(self, node, receiver, name, value, state)
        if isinstance(receiver, Obj):
            state.attrs[receiver.oid, name] = value
        elif isinstance(receiver, Unknown):
            state.attrs[receiver.key, name] = value
        elif isinstance(receiver, UserClass):
            state.vars[receiver.scope, name] = value

    def augment(self, node: ir.Augment, state: State, scope: int) -> Flow:
        outcomes = evaluate.evaluate(self, node.value, state, scope)
        for _, after in outcomes:
            if isinstance(node.target, ir.Name):
                self.bind(node.target.id, self.fresh(node.uid, after), scope, after)
        return Flow([after for _, after in outcomes])

    def evaluate_only(self, node: ir.Evaluate, state: State, scope: int) -> Flow:
        outcomes = evaluate.evaluate(self, node.value, state, scope)
        return Flow([after for value, after in outcomes if value != evaluate.NEVER])

    def if_(self, node: ir.If, state: State, scope: int) -> Flow:
        flow = self.conditional(node, state, scope)
        if len(flow.normal) > 1 and self.is_inert(node):
            flow.normal = merge_equal(flow.normal, 1)[0]
        return flow

    def is_inert(self, node: ir.If) -> bool:
        """Whether it makes no difference to any rule which way a conditional goes."""
        known = self.inert.get(node.uid)
        if known is None:
            known = self.inert[node.uid] = survey.is_inert(node, self.interesting)
        return known

    def conditional(self, node: ir.If, state: State, scope: int) -> Flow:
        before = set(state.conds) if self.elements else set()
        taken, skipped = branch(self, node.test, state, scope)
        self.guard_depth += 1
        then = self.block(node.body, taken, scope) if taken else Flow([])
        if taken and skipped and then.normal and self.tests_element(node.test, taken + skipped, before):
            skipped, then.normal = then.normal, []  # some elements go this way and the others that
            for each in skipped:
                each.conds = {k: v for k, v in each.conds.items() if not self.about_element((k,))}
        other = self.block(node.orelse, skipped, scope) if skipped else Flow([])
        self.guard_depth -= 1
        then.absorb(other)
        then.normal += other.normal
        return then

    def tests_element(self, test: ir.Expr, states: Iterable[State], before: set[str]) -> bool:
        """Whether a test tells elements apart: by the conditions that it left behind, or by the names it uses."""
        if not self.elements:
            return False
        return any(self.about_element(s.conds.keys() - before) for s in states) or any(
            isinstance(part, ir.Name) and part.id in names for names in self.element_names for part in ir.parts(test)
        )

    def about_element(self, conditions: Iterable[str]) -> bool:
        """Whether a condition is about the element of a loop over parameters, of which there are always both kinds."""
        return any(element in condition for condition in conditions for element in self.elements)

    def for_(self, node: ir.For, state: State, scope: int) -> Flow:
        result = Flow([])
        for iterable, begin in evaluate.evaluate(self, node.iterable, state, scope):
            states, exits = [begin], []
            for turn in range(self.turns(iterable)):
                for each in states:
                    element = evaluate.element_of(self, iterable, turn, node.uid, each)
                    self.store(node, node.target, element, node.iterable, each, scope)
                everything = survey.is_of_a_model(iterable)
                if everything:
                    self.elements.append(f"@{node.uid}")
                    self.element_names.append(survey.names_from(node))
                self.loop_depth += 1
                step = self.block(node.body, states, scope)
                self.loop_depth -= 1
                if everything:
                    self.elements.pop()
                    self.element_names.pop()
                exits += step.broke
                result.returned += step.returned
                states = self.join((step.normal or step.continued) if everything else step.normal + step.continued)
                if not states:
                    break
            result.normal += self.join(states + exits)
        if node.orelse:
            after = self.block(node.orelse, result.normal, scope)
            result.normal = after.normal
            result.absorb(after)
        return result

    def turns(self, iterable: Value) -> int:
        """How often a loop body runs: twice shows what one turn leaves for the next; deep nests once, to stay linear."""
        if isinstance(iterable, Items) and len(iterable.items) <= 1:
            return len(iterable.items)
        return 2 if self.loop_depth < 2 else 1

    def while_(self, node: ir.While, state: State, scope: int) -> Flow:
        result = Flow([])
        states = [state]
        for _ in range(self.turns(NONE)):
            taken: list[State] = []
            for each in states:
                yes, no = branch(self, node.test, each, scope)
                taken += yes
                result.normal += no
            if not taken:
                break
            self.loop_depth += 1
            step = self.block(node.body, self.join(taken), scope)
            self.loop_depth -= 1
            result.normal += step.broke
            result.returned += step.returned
            states = self.join(step.normal + step.continued)
        result.normal = self.join(result.normal + states)
        return result

    def with_(self, node: ir.With, state: State, scope: int) -> Flow:
        states = [state]
        for context, target in node.items:
            after: list[State] = []
            for each in states:
                for value, then in evaluate.evaluate(self, context, each, scope):
                    if target is not None:
                        self.store(node, target, value, context, then, scope)
                    after.append(then)
            states = after
        expecting = any(survey.expects_failure(context) for context, _ in node.items)
        self.expecting += expecting
        flow = self.block(node.body, states, scope)
        self.expecting -= expecting
        return flow

    def try_(self, node: ir.Try, state: State, scope: int) -> Flow:
        before = state.fork()
        flow = self.block(node.body, [state], scope)
        if node.orelse:
            after = self.block(node.orelse, flow.normal, scope)
            flow.normal = after.normal
            flow.absorb(after)
        self.guard_depth += 1
        for handler in node.handlers:
            caught = before.fork()
            if handler.name:
                self.bind(handler.name, self.fresh(node.uid, caught, "error"), scope, caught)
            recovered = self.block(handler.body, [caught], scope)
            flow.normal += recovered.normal
            flow.absorb(recovered)
        self.guard_depth -= 1
        if node.final:
            last = self.block(node.final, self.join(flow.normal), scope)
            flow.normal = last.normal
            flow.absorb(last)
        return flow

    def match(self, node: ir.Match, state: State, scope: int) -> Flow:
        result = Flow([])
        exhaustive = False
        for subject, begin in evaluate.evaluate(self, node.subject, state, scope):
            for number, case in enumerate(node.cases):
                each = begin.fork()
                each.conds[f"match@{node.uid}"] = True
                for name in case.names:
                    self.bind(name, subject if case.wildcard else self.fresh(node.uid + number, each), scope, each)
                step = self.block(case.body, branch(self, case.guard, each, scope)[0] if case.guard else [each], scope)
                result.normal += step.normal
                result.absorb(step)
                exhaustive |= case.wildcard and case.guard is None
            if not exhaustive:
                result.normal.append(begin)
        return result

    def function(self, node: ir.Function, state: State, scope: int) -> Flow:
        here = self.scopes[scope]
        value = Function(node, scope, here.owner if here.is_class else None)
        if not any(f.node is node for f, _ in self.functions):
            self.functions.append((value, here.owner if here.is_class else None))
        for decorator in node.decorators:
            evaluate.single(self, decorator, state, scope)
        self.bind(node.name, value, scope, state)
        return Flow([state])

    def class_(self, node: ir.Class, state: State, scope: int) -> Flow:
        bases = tuple(evaluate.single(self, b.value, state, scope)[0] for b in node.bases if b.name is None)
        inner = self.new_scope(scope, is_class=True)
        value = UserClass(node, inner, bases)
        self.scopes[inner].owner = value
        if not any(c.node is node for c in self.classes):
            self.classes.append(value)
        flow = self.block(node.body, [state], inner)
        for after in flow.normal:
            self.bind(node.name, value, scope, after)
        return Flow(flow.normal)

    def return_(self, node: ir.Return, state: State, scope: int) -> Flow:
        if node.value is None:
            return Flow([], returned=[(NONE, state)])
        outcomes = evaluate.evaluate(self, node.value, state, scope)
        if len(self.stack) == 1 and self.uncalled:
            for value, after in outcomes:
                facts = after.get(value, Peft)
                oid = after.oid(value)
                if facts is not None and facts.gutted is not None and oid is not None:
                    self.trace.event("returned", oid, node)
        return Flow([], returned=outcomes)

    def leave(self, node: ir.Leave, state: State, scope: int) -> Flow:
        if node.value is not None:
            evaluate.single(self, node.value, state, scope)
        if node.how == "break":
            return Flow([], broke=[state])
        return Flow([], continued=[state] if node.how == "continue" else [])

    def import_(self, node: ir.Import, state: State, scope: int) -> Flow:
        for name, dotted in node.bindings:
            self.imports.add(dotted.partition(".")[0])
            if name == "*":
                imports.bind_all(self, dotted, scope, state)
            else:
                self.bind(name, imports.imported(self, dotted, scope, state), scope, state)
        return Flow([state])

    def root(self, scope: int) -> int:
        """The module that a scope is in."""
        while (parent := self.scopes[scope].parent) is not None:
            scope = parent
        return scope

    def delete(self, node: ir.Delete, state: State, scope: int) -> Flow:
        for target in node.targets:
            if isinstance(target, ir.Name):
                state.vars.pop((scope, target.id), None)
        return Flow([state])

    def assert_(self, node: ir.Assert, state: State, scope: int) -> Flow:
        return Flow(branch(self, node.test, state, scope)[0])

    def outer(self, node: ir.Outer, state: State, scope: int) -> Flow:
        for name in node.names:
            home: int | None = self.root(scope) if node.kind == "global" else self.scopes[scope].parent
            while node.kind == "nonlocal" and home and (home, name) not in state.vars:
                home = self.scopes[home].parent
            self.scopes[scope].aliases[name] = self.root(scope) if home is None else home
        return Flow([state])


BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_"))

_HANDLERS: dict[type[ir.Stmt], Callable[..., Flow]] = {
    ir.Assign: Machine.assign,
    ir.Augment: Machine.augment,
    ir.Evaluate: Machine.evaluate_only,
    ir.If: Machine.if_,
    ir.For: Machine.for_,
    ir.While: Machine.while_,
    ir.With: Machine.with_,
    ir.Try: Machine.try_,
    ir.Match: Machine.match,
    ir.Function: Machine.function,
    ir.Class: Machine.class_,
    ir.Return: Machine.return_,
    ir.Leave: Machine.leave,
    ir.Import: Machine.import_,
    ir.Delete: Machine.delete,
    ir.Assert: Machine.assert_,
    ir.Outer: Machine.outer,
}
