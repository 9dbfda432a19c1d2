"""The machine: one program, its scopes and names, and what its run leaves for the rules."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow import conditions, entries, statements, survey
from loradoctor.lint.flow.state import State, merge_equal
from loradoctor.lint.flow.trace import Trace
from loradoctor.lint.flow.values import (
    Function,
    Ref,
    Unknown,
    UserClass,
    Value,
)
from loradoctor.lint.libraries import canonical
from loradoctor.lint.project import Project
from loradoctor.lint.versions import Version

if TYPE_CHECKING:
    from loradoctor.lint.flow.generators import Consumer
    from loradoctor.lint.flow.memory import Record

PATHS = 12
"""How many different worlds are followed side by side. Real training scripts stay below 8 after joining (labelled corpus)."""

PATHS_IN_LOOPS = 4
"""In a loop, whose branches multiply with its turns, worlds whose models are alike are told apart up to this many."""


@dataclass(slots=True)
class Scope:
    """A namespace: the one around it, the names that belong to other scopes, and those that were ever bound in it."""

    parent: int | None
    is_class: bool = False
    aliases: dict[str, int] = field(default_factory=dict)
    self_value: Value | None = None
    path: str = ""
    owner: UserClass | None = None
    names: set[str] = field(default_factory=set)


class Machine:
    """Runs one lowered program. ``trace`` holds what the rules will see."""

    def __init__(
        self,
        program: ir.Program,
        vocabulary: frozenset[str],
        project: Project | None = None,
        well_known: Mapping[str, str] | None = None,
        versions: Callable[[], Mapping[str, Version]] = dict,
    ) -> None:
        self.program = program
        self.vocabulary = vocabulary
        self.project = project
        self.well_known = well_known or {}
        self.versions = versions
        self.modules: dict[str, int] = {}
        self.trace = Trace()
        self.memory: dict[object, list[Record]] = {}
        self.records = self.trace.records
        self.worth: dict[int, int] = {}
        self.scopes: dict[int, Scope] = {0: Scope(None, path=project.path if project else "")}
        self.stars: list[str] = []
        self.imports: set[str] = set()
        self.config_classes: set[str] = set()
        self.steps, self.limit = 0, statements.STEPS
        self.stack: list[ir.Node] = []
        self.frame = ""
        self.given_out: set[str] = set()
        self.frames: dict[object, str] = {}
        self.consumers: list[Consumer | None] = []
        self.loop_depth = 0
        self.expecting = 0
        self.inert: dict[int, bool] = {}
        self.calling: dict[int, bool] = {}
        self.uncalled = False
        self.elements: list[str] = []
        self.element_names: list[set[str]] = []
        self.guard_depth = 0
        self.entered: set[int] = set()
        self.defined: set[int] = set()
        self.functions: list[tuple[Function, UserClass | None]] = []
        self.classes: list[UserClass] = []
        self.made: set[int] = set()
        self.wrappers: set[int] = set()
        self.assigned = survey.count_assignments(program).copy()
        self.interesting = survey.interesting_words(program, vocabulary)

    # -- the whole program

    def run(self) -> Trace:
        """Run the module, then every function and method that nothing in it called."""
        try:
            flow = statements.block(self, self.program.body, [State()])
            worlds = flow.normal or [State()]
            entries.run_uncalled(self, worlds[0])
        except statements.Exhausted:
            self.trace.cut_short(since=0)
        return self.trace

    def worth_entering(self, function: Function) -> bool:
        """Whether a function can do anything a rule looks at."""
        node = function.node
        return not isinstance(node, ir.Function) or not self.interesting.isdisjoint(node.words) or node.uid in self.wrappers

    def may_enter(self, node: ir.Node, depth: int) -> bool:
        """Whether a function is entered: it is not being run already, and calls are not too deep in one another."""
        if node in self.stack or len(self.stack) >= depth:
            self.give_up()
            return False
        for record in self.records:
            record.entered.add(node)
            record.deepest = max(record.deepest, len(self.stack) + 1 - record.depth)
        return True

    # -- records of statements

    def give_up(self) -> None:
        """What is being done now cannot be done again by a record of it."""
        for record in self.records:
            record.reads.void = True

    def bind_records(self) -> None:
        """What is being done now has to do with the very scope it is done in."""
        for record in self.records:
            record.reads.bound = True

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

    def home(self, name: str, scope: int, state: State) -> int:
        """The scope whose variable a name means; the one it is used in where there is none."""
        here: int | None = self.scopes[scope].aliases.get(name, scope)
        while here is not None and (here, name) not in state.vars:
            here = self.scopes[here].parent
        return scope if here is None else here

    def bind(self, name: str, value: Value, scope: int, state: State) -> None:
        """Assign a variable."""
        place = self.scopes[scope]
        if place.aliases:
            home = place.aliases.get(name, scope)
            place, scope = self.scopes[home], home
        place.names.add(name)
        state.vars[scope, name] = value

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

    def frame_of(self, node: ir.Node, arguments: Iterable[object]) -> str:
        """What sets apart the values made in calls of one function with different arguments; nothing for the first that is seen."""
        called = (node.uid, *arguments)
        if called not in self.frames:
            count = self.frames[node.uid] = f"~{len(self.frames)}" if node.uid in self.frames else ""
            self.frames[called] = count
        return self.frames[called]

    def fresh(self, uid: int, state: State, hint: str = "value") -> Unknown:
        """An unknown that no other value equals: the ``k``-th made by this node on this path."""
        key, count = f"{hint}@{uid}{self.frame}", 0
        for record in self.records:
            record.fresh.append(key)
        if key not in self.given_out:  # the usual case, without a look at everything there is
            self.given_out.add(key)
            if self.records:
                conditions.forget(key, state)
            return Unknown(key)
        taken: list[str] = []
        if state.run.models and state.run.has_models((key,)):
            self.give_up()
            taken = [oid for oid in state.heap if type(oid) is str and oid.startswith(key)]
        while any(survey.is_part(oid, f"{key}#{count}" if count else key) for oid in taken):
            count += 1
        name = f"{key}#{count}" if count else key
        conditions.forget(name, state)
        return Unknown(name)

    # -- blocks

    def join(self, states: list[State]) -> list[State]:
        if len(states) < 2:
            return states
        joined, cut = merge_equal(states, PATHS, PATHS_IN_LOOPS if self.loop_depth else PATHS)
        if cut:
            self.trace.cut_short()
        return joined

    def root(self, scope: int) -> int:
        """The module that a scope is in."""
        while (parent := self.scopes[scope].parent) is not None:
            scope = parent
        return scope


BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_"))
