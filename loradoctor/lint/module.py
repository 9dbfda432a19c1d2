"""What rules see of a module: call sites with resolved names, argument values, facts and places; never a syntax node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from loradoctor.diagnostic import Edit, Finding, Fix, Location, Related, Severity
from loradoctor.lint import artifacts, edits, installs, ir
from loradoctor.lint.artifacts import Artifact
from loradoctor.lint.flow import paths
from loradoctor.lint.flow.facts import Directory, Facts, Model, Peft
from loradoctor.lint.flow.machine import Machine
from loradoctor.lint.flow.trace import Store, Trace, Visit
from loradoctor.lint.flow.values import Known, Obj, Oid, Unknown, Value
from loradoctor.lint.libraries import WELL_KNOWN, vocabulary
from loradoctor.lint.libraries.effects import directory
from loradoctor.lint.lower import Tree
from loradoctor.lint.project import Project, Unit, unit
from loradoctor.lint.source import Source
from loradoctor.lint.versions import Version, for_file
from loradoctor.lint.versions import parse as parse_version

F = TypeVar("F", bound=Facts)


def analyse(source: Source, targets: Mapping[str, str] | None = None) -> Module:
    """Parse, lower and execute a source; ``targets`` are library versions to write for.

    Raises :class:`loradoctor.lint.lower.ParseError`.
    """
    own = unit(source)
    tree, program = own.tree, own.program
    project = Project(source.path)
    names = WELL_KNOWN if source.kind == "markdown" else {}
    machine = Machine(program, vocabulary(), project, names, lambda: for_file(source.path, targets, installs.of_source(source)))
    trace = machine.run()
    others = tuple(project.units.values())
    return Module(source, tree, program, trace, frozenset(machine.imports), others, targets or {}, project)


@dataclass(slots=True)
class Arrival:
    """One visit of a call, with the questions rules ask of it."""

    module: Module
    visit: Visit

    @property
    def receiver(self) -> Value | None:
        """What the method was called on."""
        return self.visit.receiver

    def arg(self, name: str) -> Value | None:
        """An argument; None when it was certainly not passed."""
        return self.visit.binding.get(name)

    def facts(self, value: Value | None, kind: type[F]) -> F | None:
        """What was known of a value at this moment, if it is of this kind."""
        found = self.visit.heap.get(oid) if (oid := self.oid(value)) is not None else None
        return found if isinstance(found, kind) else None

    def oid(self, value: Value | None) -> Oid | None:
        """The identity of a value."""
        if isinstance(value, Obj):
            return value.oid
        return value.key if isinstance(value, Unknown) and value.key in self.visit.heap else None

    def kept(self, path: Value | None, *, several: bool = False) -> Directory | None:
        """What a directory holds at this moment: what this script has put there or, where it has not, a neighbour.

        With ``several``, also what more than one neighbour puts there, if that is one kind of thing; the first stands for them.
        """
        oid = directory(path)
        own = self.visit.heap.get(oid) if oid is not None else None
        if isinstance(own, Directory) and not self.module.only_loaded(own):
            return own
        found = None if self.module.writes(path) else self.module.elsewhere(path, several=several)
        if found is None or found.kind not in ("adapter", "merged"):
            return own if isinstance(own, Directory) else None
        held = {"adapter": found.node} if found.kind == "adapter" else {"merged": found.node}
        return Directory(found.node, **held, assumed=found.assumed)

    def maker(self, value: Value | None) -> Arrival | None:
        """The visit of the call that made an object, if it is in sight."""
        oid = self.oid(value)
        made = self.visit.heap[oid].made if oid is not None else None
        site = self.module.sites.get(made.uid) if made is not None else None
        return next((a for a in site.arrivals if self.oid(a.visit.result) == oid), None) if site else None

    def base(self, value: Value | None) -> tuple[Oid, Model] | None:
        """The plain model under PEFT wrappers, with its identity."""
        oid = self.oid(value)
        while oid is not None:
            facts = self.visit.heap.get(oid)
            if isinstance(facts, Model):
                return oid, facts
            oid = facts.base if isinstance(facts, Peft) else None
        return None


@dataclass(eq=False)
class Site:
    """A call in the text and every visit of it."""

    module: Module
    node: ir.Call
    arrivals: list[Arrival] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The canonical name of what is called: dotted for functions, bare for methods."""
        return self.arrivals[0].visit.name

    @property
    def dropped(self) -> bool:
        """Whether the call is a statement of its own."""
        return self.node.uid in self.module.dropped

    @property
    def receiver_name(self) -> str | None:
        """The variable a method is called on, if it is a plain one."""
        func = self.node.func
        return func.value.id if isinstance(func, ir.Attr) and isinstance(func.value, ir.Name) else None

    def sometimes(self, test: Callable[[Arrival], Any]) -> Arrival | None:
        """The first visit for which ``test`` holds."""
        return next((a for a in self.arrivals if test(a)), None)

    def always(self, test: Callable[[Arrival], Any]) -> bool:
        """Whether ``test`` holds on every visit of a run that saw every path."""
        return self.module.trace.saw_all(a.visit.step for a in self.arrivals) and all(test(a) for a in self.arrivals)

    def argument(self, name: str) -> ir.Arg | None:
        """The written argument that is bound to a parameter."""
        return next((arg for a in self.arrivals if (arg := a.visit.binding.args.get(name)) is not None), None)

    def finding(self, message: str, **details: Any) -> Finding:
        """A finding at this call."""
        return self.module.finding(self.node, message, **details)


@dataclass(eq=False)
class Module:
    """A source after execution."""

    source: Source
    tree: Tree
    program: ir.Program
    trace: Trace
    imports: frozenset[str]
    others: tuple[Unit, ...] = ()
    targets: Mapping[str, str] = field(default_factory=dict)
    project: Project = field(default_factory=lambda: Project(""))

    def close(self) -> None:
        """Let go of everything, unless a neighbour may ask for it.

        What is found in a module points back at it; all of that would stay until somebody looks for cycles.
        """
        if not artifacts.recent.holds(self):
            vars(self).clear()

    @property
    def consulted(self) -> frozenset[str]:
        """Every other path that the findings rest on: files, absent files an import could have meant, directories (their names).

        Rules look further while they run: ask when they are done.
        """
        return frozenset(self.project.consulted)

    @cached_property
    def written(self) -> tuple[Artifact, ...]:
        """What this script leaves on disk."""
        return artifacts.written(self)

    @cached_property
    def _found_elsewhere(self) -> dict[Value, tuple[Artifact, ...]]:
        return {}

    def writes(self, path: Value | None) -> frozenset[str]:
        """The kinds of things that this script itself puts at a path, at whatever moment."""
        where = paths.place(path, self.trace.defaults)
        return frozenset(a.kind for a in self.written if where is not None and a.path == paths.pattern(where.text))

    def elsewhere(self, path: Value | None, *, several: bool = False) -> Artifact | None:
        """What a neighbouring script has put at a path; the first of ``several`` that put the same kind of thing there."""
        if path is None:
            return None
        if path not in self._found_elsewhere:
            self._found_elsewhere[path] = artifacts.elsewhere(self, path)
        found = self._found_elsewhere[path]
        return found[0] if len(found) == 1 or (found and several) else None

    @cached_property
    def served_beside(self) -> str | None:
        """The script beside this one that serves its adapter."""
        return artifacts.served(self)

    @property
    def _neighbours(self) -> Iterator[Module]:
        return (artifact.module for found in self._found_elsewhere.values() for artifact in found)

    def only_loaded(self, held: Directory) -> bool:
        """Whether all that is known of a directory is that an adapter was loaded from it."""
        site = self.sites.get(held.adapter.uid) if held.adapter is not None else None
        return held.merged is None and site is not None and site.name.startswith("peft.")

    def site(self, node: ir.Node | None) -> Site | None:
        """The site of a call in this script, or in the neighbour that wrote what this one reads."""
        if node is None:
            return None
        return next((m.sites[node.uid] for m in (self, *self._neighbours) if node.uid in m.sites), None)

    @cached_property
    def sites(self) -> dict[int, Site]:
        """Every visited library call, by node, in the order of the text."""
        sites: dict[int, Site] = {}
        for visit in self.trace.visits:
            site = sites.setdefault(visit.node.uid, Site(self, visit.node))
            site.arrivals.append(Arrival(self, visit))
        return dict(sorted(sites.items()))

    @cached_property
    def _called(self) -> dict[str, list[Site]]:
        called: dict[str, list[Site]] = {}
        for site in self.sites.values():
            called.setdefault(site.name, []).append(site)
        return called

    @cached_property
    def dropped(self) -> frozenset[int]:
        """The calls that stand as statements of their own."""
        return frozenset(n.value.uid for n in self._statements() if isinstance(n, ir.Evaluate) and isinstance(n.value, ir.Call))

    def _statements(self) -> Iterator[ir.Stmt]:
        pending = list(self.program.body)
        while pending:
            node = pending.pop()
            yield node
            for part in ("body", "orelse", "final"):
                pending += getattr(node, part, ())
            for clause in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
                pending += clause.body

    def assignments(self) -> Iterator[ir.Assign]:
        """Every assignment statement, wherever it stands."""
        return (n for n in self._statements() if isinstance(n, ir.Assign))

    def assigned_in_vain(self, call: ir.Call) -> bool:
        """Whether a call's result goes to ``_`` only."""
        return any(n.value is call and all(isinstance(t, ir.Name) and t.id == "_" for t in n.targets) for n in self.assignments())

    def calls(self, *names: str) -> Iterator[Site]:
        """The sites of calls with one of these names.

        They are dotted for functions (``peft.PeftModel.from_pretrained``) and bare for methods; a final ``*`` is any ending.
        """
        whole = {n for n in names if not n.endswith("*")}
        starts = tuple(n[:-1] for n in names if n.endswith("*"))
        called = self._called
        asked = {name for name in called if name in whole or name.startswith(starts)} if starts else whole & called.keys()
        if len(asked) == 1:
            yield from called[asked.pop()]
        else:
            yield from sorted((site for name in asked for site in called[name]), key=lambda site: site.node.uid)

    @cached_property
    def versions(self) -> dict[str, Version]:
        """The library versions this file is written for; one that is not named is taken at its newest."""
        return for_file(self.source.path, self.targets, self.own_installs)

    @cached_property
    def own_installs(self) -> installs.Installs:
        """What this file installs itself."""
        return installs.of_source(self.source)

    def before(self, library: str, version: str) -> bool:
        """Whether this file is written for a version of ``library`` older than ``version``."""
        pinned = self.versions.get(library)
        return pinned is not None and pinned < parse_version(version)

    @property
    def is_test(self) -> bool:
        """Whether this is test code, which does on purpose, and undoes, what elsewhere is a mistake."""
        name = self.source.path.replace("\\", "/").rpartition("/")[2]
        return not self.imports.isdisjoint(("pytest", "unittest")) or name.startswith("test_") or name.endswith("_test.py")

    def ran(self, node: ir.Node) -> bool | None:
        """Whether the notebook's stored outputs show that the cell of ``node`` ran, failed (False), or neither (None)."""
        if self.source.kind != "notebook" or self.unit(node).source is not self.source:
            return None
        index = self.source.cell_of(self.span(node)[0])
        cell = next((c for c in self.source.cells if c.index == index), None)
        if cell is None or cell.execution_count is None:
            return None
        return not cell.failed

    def left_out(self, text: str) -> bool:
        """Whether a cell that was left out of the notebook, because it does not parse, mentions ``text``."""
        return any(
            text in cell.source and cell.source.strip() and not self.source.text[cell.start : cell.end].strip()
            for cell in self.source.cells
        )

    @property
    def stores(self) -> list[Store]:
        """Every attribute assignment."""
        return self.trace.stores

    def around(self, node: ir.Node) -> list[ir.If]:
        """The conditions that a node stands under in the text, outermost first."""
        start, end = self.span(node)
        found = [(self.span(s), s) for s in self._statements() if isinstance(s, ir.If)]
        return [s for (first, last), s in sorted(found, key=lambda f: f[0]) if first <= start and end <= last]

    def happened(self, kind: str, oid: Oid | None) -> list[ir.Node]:
        """Where something happened to an object, on any path."""
        return [] if oid is None else self.trace.events.get((kind, oid), [])

    # -- places

    def unit(self, node: ir.Node | ir.Arg) -> Unit:
        """The file that a node stands in."""
        where = node if isinstance(node, ir.Node) else node.value
        if self.program.holds(where):
            return Unit(self.source, self.tree, self.program)
        other = next((u for u in self.others if u.program.holds(where)), None)
        if other is not None:
            return other
        return next((m.unit(node) for m in self._neighbours if m.holds(where)), Unit(self.source, self.tree, self.program))

    def holds(self, node: ir.Node) -> bool:
        """Whether a node stands in this file or in one that its analysis followed."""
        return self.program.holds(node) or any(u.program.holds(node) for u in self.others)

    def span(self, node: ir.Node | ir.Arg) -> tuple[int, int]:
        """Character offsets of a node in its file's text."""
        return self.unit(node).tree.span(node)

    def text(self, node: ir.Node | ir.Arg) -> str:
        """The source of a node."""
        start, end = self.span(node)
        return self.unit(node).source.text[start:end]

    def location(self, node: ir.Node) -> Location:
        """Where a node stands."""
        return self.unit(node).source.location(*self.span(node))

    def related(self, node: ir.Node | None, message: str) -> tuple[Related, ...]:
        """A related place, or none when it is out of sight."""
        return () if node is None else (Related(message, self.location(node)),)

    def finding(
        self,
        node: ir.Node,
        message: str,
        *,
        help: str = "",  # noqa: A002 -- the field's name in the contract
        severity: Severity | None = None,
        related: Iterable[Related] = (),
        fix: Fix | None = None,
        data: dict[str, object] | None = None,
    ) -> Finding:
        """A finding at a node; one about another file is anchored where this file takes part in it, and has no fix."""
        place = self.location(node)
        others = tuple(related)
        if place.path != self.source.path:
            here = next((r for r in others if r.location.path == self.source.path), None)
            if here is not None:
                others = (Related("this is what it is about", place), *(r for r in others if r is not here))
                place = here.location
            fix = None
        return Finding(message, place, help, severity, others, data or {}, fix)

    # -- edits

    def replace(self, node: ir.Node | ir.Arg, text: str) -> Edit:
        """Put ``text`` in the place of a node."""
        return self.source.edit(*self.span(node), text)

    def insert(self, node: ir.Node, text: str) -> Edit:
        """Put ``text`` before a node; before the brackets around it where it is a statement of its own."""
        statement = self.statement(node)
        start, _ = self.span(statement if isinstance(statement, ir.Evaluate) else node)
        return self.source.edit(start, start, text)

    def statement(self, node: ir.Node) -> ir.Stmt | None:
        """The statement that is this node, drops its value or assigns it."""
        own = (s for s in self._statements() if s is node or (isinstance(s, (ir.Assign, ir.Evaluate)) and s.value is node))
        return next(own, None)

    def precede(self, statement: ir.Stmt, code: str) -> Edit:
        """Put a statement before an assignment or a call."""
        return self._edited(statement, self._simple(statement).preceded(code))

    def follow(self, statement: ir.Stmt, code: str) -> Edit:
        """Put a statement after an assignment or a call."""
        return self._edited(statement, self._simple(statement).followed(code))

    def delete_statement(self, statement: ir.Stmt) -> Edit:
        """Remove an assignment or a call with its line; `pass` takes its place where it is the only one of its block."""
        blocks = (getattr(s, part, ()) for s in self._statements() for part in ("body", "orelse", "final"))
        siblings = next((b for b in (self.program.body, *blocks) if any(s is statement for s in b)), (statement,))
        alone = len(siblings) < 2 and siblings is not self.program.body
        return self._edited(statement, self._simple(statement).deleted(alone=alone))

    def drop_targets(self, statement: ir.Assign) -> Edit:
        """Leave of an assignment the call that it assigns."""
        return self._edited(statement, self._simple(statement).bare(self.span(statement.value)))

    def remove_argument(self, call: ir.Call, arg: ir.Arg) -> Edit:
        """Remove an argument with its comma; the comments around it stay."""
        return self._edited(call, self._brackets(call).removed(call.args.index(arg)))

    def add_argument(self, call: ir.Call, text: str) -> Edit:
        """Add an argument at the end of a call, keeping its layout."""
        return self._edited(call, self._brackets(call).added(text))

    def add_import(self, statement: ir.Import, name: str) -> Edit:
        """Import one more name with a ``from`` import."""
        text = self.unit(statement).source.text
        return self._edited(statement, edits.imported(text, *self.span(statement)).added(name))

    def remove_import(self, statement: ir.Import, name: str) -> Edit:
        """Import one name less with a ``from`` import; the statement goes with its last name."""
        text = self.unit(statement).source.text
        names = edits.imported(text, *self.span(statement))
        index = next((i for i, span in enumerate(names.items) if text[slice(*span)].split()[0] == name), None)
        if len(statement.bindings) == 1 or index is None:
            return self.delete_statement(statement)
        return self._edited(statement, names.removed(index))

    def _edited(self, node: ir.Node, change: edits.TextEdit) -> Edit:
        return self.unit(node).source.edit(*change)

    def _brackets(self, call: ir.Call) -> edits.Brackets:
        text = self.unit(call).source.text
        opened = edits.bracket_after(text, self.span(call.func)[1])
        return edits.Brackets(text, [self.span(a) for a in call.args], opened, self.span(call)[1] - 1)

    def _simple(self, statement: ir.Stmt) -> edits.Simple:
        text = self.unit(statement).source.text
        start, end = self.span(statement)
        if isinstance(statement, (ir.Assign, ir.Evaluate)):
            end = max(end, edits.closed_after(text, start, self.span(statement.value)))
        return edits.Simple(text, start, end)


def literal(value: Value | None) -> object:
    """The value of a literal, None for anything else."""
    return value.value if isinstance(value, Known) else None
