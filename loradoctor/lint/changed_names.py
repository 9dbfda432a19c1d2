"""Where a file uses a name that a library has changed: arguments, methods, functions and imports, with the edits that repair it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from loradoctor.diagnostic import Edit, Fix, Location
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Facts, Model, Peft, Tokenizer
from loradoctor.lint.flow.values import Known, Unknown
from loradoctor.lint.libraries import deprecations
from loradoctor.lint.libraries.deprecations import Change
from loradoctor.lint.module import Module, Site, literal
from loradoctor.lint.record import replace
from loradoctor.lint.suppress import STRING_OR_COMMENT
from loradoctor.lint.syntax import Imported, before, dotted, imports, name_span, nodes, own_calls, version_dependent
from loradoctor.lint.versions import left_open

_METHODS = ("push_to_hub", "save_pretrained", "load_adapter", "add_adapter", "set_adapter")
_LOADS_A_MODEL = re.compile(
    r"transformers\.\w*(Model|For[A-Z]\w+|LMHeadModel|WithLMHead)\.from_pretrained|peft\.AutoPeftModel\w*\.from_pretrained"
)
"""Loaders that pass the keywords they do not know on to a constructor; those of tokenizers and configurations keep or drop them."""
KBIT = ("load_in_4bit", "load_in_8bit")
KBIT_CHANGE = Change("transformers", "5.0", "4.38", instead="pass `quantization_config=BitsAndBytesConfig(...)`")


@dataclass(frozen=True, slots=True)
class Use:
    """A changed name in the text: ``what`` is it in words, ``edits`` what repairs it here.

    ``statement`` imports it, ``related`` is the same where that is not the place itself.
    """

    name: str
    what: str
    change: Change
    place: Location
    edits: tuple[Edit, ...] = ()
    title: str = ""
    related: ir.Node | None = None
    statement: ir.Node | None = None

    @property
    def fix(self) -> Fix | None:
        """The repair, where there is one."""
        return Fix(self.title, self.edits) if self.edits else None


def fate(module: Module, change: Change) -> str:
    """``"removed"``, ``"unborn"`` or ``"deprecated"`` in the version this file is written for, else nothing.

    ``"kept"`` is what only the old version has that the file installs itself, or what the commit may have that is pinned.
    """
    if module.project.holds(change.library):  # its own repository, or a copy of it: what stands there is what there is
        return ""
    if change.removed is not None and not module.before(change.library, change.removed):
        return "removed"
    if change.since is not None and module.before(change.library, change.since):
        # who reads a document installs for himself, and so do a notebook and a part with requirements of its own
        alone = module.source.kind == "markdown" or change.library in module.own_installs.floors
        alone = alone or change.library in left_open(str(Path(module.source.path).absolute().parent))
        bound = not alone or change.library in (*module.own_installs.requirements, *module.targets)
        return "unborn" if bound and not of_some_commit(module, change) else ""
    due = change.deprecated is not None and not module.before(change.library, change.deprecated)
    if due:
        return "deprecated" if not change.recent or change.library in module.versions else ""
    own = change.library in module.own_installs.requirements or of_some_commit(module, change)
    return "kept" if own and change.removed not in (None, "0.0.1") else ""


def of_some_commit(module: Module, change: Change) -> bool:
    """Whether the library is taken from a commit, whose release is not known."""
    return module.versions.get(change.library) == (0,)


def uses(module: Module, *wanted: str) -> Iterator[Use]:
    """Every use of a name whose fate is one of ``wanted``."""
    return (use for use in _all_uses(module) if fate(module, use.change) in wanted)


@lru_cache(maxsize=1)  # two rules ask of the same module in turn
def _all_uses(module: Module) -> tuple[Use, ...]:
    finder = _Finder(module)
    return (*finder.arguments(), *finder.kbit(), *finder.methods(), *finder.symbols())


@dataclass(eq=False)
class _Finder:
    module: Module

    @cached_property
    def imports(self) -> list[Imported]:
        return imports(self.module)

    @cached_property
    def excused(self) -> frozenset[int]:
        return version_dependent(self.module)

    @cached_property
    def excused_words(self) -> frozenset[str]:
        """What is put into arguments where versions are told apart: `kwargs["evaluation_strategy"] = "no"`, or passed on."""
        excused = [n for n in self.nodes if n.uid in self.excused]
        strings = (n.value for n in excused if isinstance(n, ir.Const))
        passed = (a.name for n in excused if isinstance(n, ir.Call) for a in n.args)
        return frozenset(s for s in (*strings, *passed) if isinstance(s, str))

    # -- arguments

    def arguments(self) -> Iterator[Use]:
        for site in own_calls(self.module, "transformers.*", "trl.*", "peft.*", *_METHODS):
            call = self._call(site)
            changes = deprecations.arguments(call) if call else {}
            if not changes or self._is_subclass_with_fields(site) or not self._exists(call):
                continue
            names = dict.fromkeys(name for a in site.arrivals for name in a.visit.binding.values if name in changes or name == "optim")
            if not names or site.node.uid in self.excused:  # which takes a walk over everything: asked where it matters
                continue
            for name in names:
                if name in changes and self._named(site, name):
                    yield self._argument(site, name, changes[name], changes)
            yield from self._optimizer(site)

    def _call(self, site: Site) -> str:
        """The name under which the signature of a call is kept, empty for one that is not to be judged."""
        name = site.name
        library = name.partition(".")[0]
        if "unsloth" in self.module.imports and library in ("trl", "transformers"):
            # it holds back both, and puts trainers and settings of its own in their place, which still take what is gone
            return name if library == "transformers" and library in self.module.versions else ""
        if name == "transformers.Seq2SeqTrainer":
            return "transformers.Trainer"
        if name.endswith(".from_pretrained"):
            known = library == "transformers"
            return (name if _LOADS_A_MODEL.fullmatch(name) else deprecations.READING) if known else ""
        if "." in name:
            return name
        kinds = {type(a.facts(a.receiver, Facts)) for a in site.arrivals}
        if name == "push_to_hub":
            return name if kinds <= {Model, Peft, Tokenizer} else ""
        return f"peft.PeftModel.{name}" if kinds == {Peft} else ""

    def _exists(self, call: str) -> bool:
        """Whether there is such a call at all in the version this file is written for; where not, its import is told of."""
        library = call.partition(".")[0]
        since, until = deprecations.exists(call)
        return not (since and self.module.before(library, since)) and (until is None or self.module.before(library, until))

    def _named(self, site: Site, name: str) -> bool:
        """Whether an argument is passed by its name: what stands in its place had another one before."""
        written = site.argument(name)
        if written is None:
            return name not in self.excused_words
        return bool(written.name or written.star)

    def _is_subclass_with_fields(self, site: Site) -> bool:
        return site.arrivals[0].visit.receiver is not None and site.name.endswith(("Arguments", "Config"))

    def _argument(self, site: Site, name: str, change: Change, others: Mapping[str, Change]) -> Use:
        owner = site.name.rpartition(".")[2]
        owner = f"{site.name.split('.')[-2]}.{owner}" if owner == "from_pretrained" else owner
        what = f"`{owner}` {{fate}} argument `{name}`"
        written = next((a for a in site.node.args if a.name == name), None)
        if fate(self.module, change) == "unborn":  # its predecessor is alive
            old = next((n for n, c in others.items() if c.new == name and not c.instead and fate(self.module, c) in ("", "deprecated")), "")
            change = replace(change, new=old, instead="", drop=False, value="")
        if written is None:
            return Use(name, what, change, self.module.location(site.node))
        place = self._place(self.module.span(written))
        title, edits = self._argument_edits(site.node, written, name, change)
        return Use(name, what, change, place, edits, title)

    def _argument_edits(self, call: ir.Call, written: ir.Arg, name: str, change: Change) -> tuple[str, tuple[Edit, ...]]:
        others = {a.name for a in call.args}
        start, _ = self.module.span(written)
        if any(a.star == "**" for a in call.args):
            return "", ()
        if change.new and not change.instead and change.new not in others:
            return f"rename to `{change.new}`", (self.module.source.edit(start, start + len(name), change.new),)
        true = isinstance(written.value, ir.Const) and written.value.value is True
        if change.value and true and change.value.partition("=")[0] not in others:
            return f"write `{change.value}`", (self.module.replace(written, change.value),)
        if change.drop and (true or name == "overwrite_output_dir"):
            return "leave the argument out", (self.module.remove_argument(call, written),)
        return "", ()

    def _optimizer(self, site: Site) -> Iterator[Use]:
        if "optim" not in {a.name for a in site.node.args} or not site.name.endswith(("TrainingArguments", "Config")):
            return
        written = site.argument("optim")
        value = literal(site.arrivals[0].arg("optim"))
        change = deprecations.OPTIMIZERS.get(value) if isinstance(value, str) else None
        if change is None or written is None:
            return
        edits = (self.module.replace(written.value, f'"{change.new}"'),) if isinstance(written.value, ir.Const) else ()
        title = f'write `optim="{change.new}"`'
        yield Use(str(value), f"`optim` {{fate}} value `{value}`", change, self._place(self.module.span(written)), edits, title)

    def _place(self, span: tuple[int, int]) -> Location:
        return self.module.source.location(*span)

    # -- load_in_4bit, load_in_8bit

    def kbit(self) -> Iterator[Use]:
        for site in own_calls(self.module, "transformers.*", "peft.AutoPeftModel*"):
            if not _LOADS_A_MODEL.fullmatch(site.name):
                continue
            given = {name: [a.arg(name) for a in site.arrivals] for name in KBIT}
            on = [name for name, values in given.items() if any(v == Known(value=True) or self._open(v) for v in values)]
            if not on or site.node.uid in self.excused:
                continue
            written = next((a for a in site.node.args if a.name == on[0]), None)
            place = self.module.location(site.node) if written is None else self._place(self.module.span(written))
            owner = site.name.split(".")[-2]
            edits = self._kbit_edits(site.node) if written is not None else ()
            title = "write `quantization_config=BitsAndBytesConfig(...)`"
            yield Use(on[0], f"`{owner}.from_pretrained` {{fate}} argument `{on[0]}`", KBIT_CHANGE, place, edits, title)

    def _open(self, value: object) -> bool:
        return value is not None and not isinstance(value, Known) and not (isinstance(value, Unknown) and value.key.startswith("unseen:"))

    def _kbit_edits(self, call: ir.Call) -> tuple[Edit, ...]:
        flags = [a for a in call.args if a.name in KBIT]
        if any(a.star == "**" or a.name == "quantization_config" for a in call.args):
            return ()
        on = [a for a in flags if not (isinstance(a.value, ir.Const) and not a.value.value)]
        if len(on) != 1:
            return ()
        flag = on[0]
        root = dotted(call.func).partition(".")[0]
        prefix = f"{root}." if any(i.bound == root and i.dotted == "transformers" for i in self.imports) else ""
        known = (prefix + "BitsAndBytesConfig", ()) if prefix else self._import("BitsAndBytesConfig", call)
        if known is None:
            return ()
        text = f"quantization_config={known[0]}({flag.name}=True)"
        if not isinstance(flag.value, ir.Const):
            test = self.module.text(flag.value)
            if not isinstance(flag.value, (ir.Name, ir.Attr)):
                test = f"({test})"
            text += f" if {test} else None"
        edits = [self.module.replace(flag, text)]
        edits += [self.module.remove_argument(call, a) for a in flags if a is not flag]
        return (*edits, *known[1])

    def _import(self, name: str, call: ir.Node) -> tuple[str, tuple[Edit, ...]] | None:
        """What a name of transformers is called where ``call`` stands, and what makes it known; None where that cannot be done."""
        reach = {n.uid for n in before(self.module, call)}
        seen = [i for i in self.imports if i.node.uid in reach and not i.dotted.startswith("__future__")]
        if bound := next((i.bound for i in seen if i.dotted == f"transformers.{name}"), None):
            return bound, ()
        if name in self.rebound or any(i.bound == name and not i.dotted.startswith("transformers.") for i in self.imports):
            return None
        if any(i.bound == "*" and i.dotted == "transformers" for i in seen):
            return name, ()
        for found in reversed(seen):
            if found.dotted == f"transformers.{found.dotted.rpartition('.')[2]}" and found.bound != "transformers":
                return name, (self.module.add_import(found.node, name),)
        return (name, (self.module.precede(seen[0].node, f"from transformers import {name}"),)) if seen else None

    # -- methods, functions, classes, modules

    def methods(self) -> Iterator[Use]:
        for site in own_calls(self.module, "transformers.*", *deprecations.MODEL_METHODS):
            change = deprecations.method(site.name)
            func = site.node.func
            if change is None or not isinstance(func, ir.Attr) or site.node.uid in self.excused:
                continue
            _, end = self.module.span(func)
            span = (end - len(func.name), end)
            edits = (self.module.source.edit(*span, change.new),) if change.new and not change.instead else ()
            whose = "the tokenizer" if "Tokenizer" in site.name else "the model"
            yield Use(func.name, f"{whose} {{fate}} method `{func.name}`", change, self._place(span), edits, f"rename to `{change.new}`")

    def symbols(self) -> Iterator[Use]:
        bound: dict[str, list[Imported]] = {}
        for imported in self.imports:
            bound.setdefault(imported.bound, []).append(imported)
        for name, statements in bound.items():
            statement = statements[0]
            if len(statements) > 1 or statement.guarded or name == "*":
                continue
            found = _changed(statement.dotted)
            if found is not None:
                yield from self._imported(statement, *found) if statement.node.uid not in self.excused else ()
            elif statement.dotted in deprecations.WATCHED:
                yield from self._through_module(statement)

    def _imported(self, statement: Imported, old: str, change: Change) -> Iterator[Use]:
        whole = old == statement.dotted
        last = statement.dotted.rpartition(".")[2]
        span = name_span(self.module, statement.node, last)
        what = f"`{change.library}` {{fate}} `{_short(old)}`"
        names = [n for n in self.nodes if isinstance(n, ir.Name) and n.id == statement.bound]
        if statement.bound in self.rebound:
            names = []
        edits: list[Edit] = []
        title = f"rename to `{change.new.rpartition('.')[2]}`"
        renames = whole and span is not None and change.new and not change.instead and statement.bound not in self.rebound
        if renames and span is not None and self._takes(change.new, [n for n in self.nodes if isinstance(n, ir.Call) and n.func in names]):
            edits = self._rename(statement, span, old, change, names)
        calls = [n.func for n in self.nodes if isinstance(n, ir.Call) and n.func in names and n.uid not in self.excused]
        first = next(iter(calls), None) if whole else None
        if first is not None:
            yield Use(old, what, change, self.module.location(first), tuple(edits), title, statement.node, statement.node)
            return
        place = self._place(span) if span is not None else self.module.location(statement.node)
        yield Use(old, what, change, place, tuple(edits), title, statement=statement.node)

    def _rename(self, statement: Imported, span: tuple[int, int], old: str, change: Change, names: list[ir.Name]) -> list[Edit]:
        home, _, new = change.new.rpartition(".")
        start, end = self.module.span(statement.node)
        text = self.module.source.text[start:end]
        was = old.rpartition(".")[0]
        edits: list[Edit] = []
        if home != was:
            if not text.startswith(f"from {was} import"):
                return []
            if len(statement.node.bindings) != 1:
                line = self._line_before(statement.node, f"from {home} import {new}") if statement.bound == new else None
                return [line, self.module.remove_import(statement.node, new)] if line is not None else []
            edits.append(self.module.source.edit(start + 5, start + 5 + len(was), home))
        written = old.rpartition(".")[2]
        if new == written:
            return edits
        if statement.bound != written:
            return [*edits, self.module.source.edit(*span, new)]
        known = [i for i in self.imports if i.bound == new and i.dotted == change.new]
        if any(i.node is statement.node or (i.top and statement.top) for i in known) and not edits:
            edits.append(self.module.remove_import(statement.node, written))
        elif self._written(written) != len(names) + 1:
            return [*edits, self.module.source.edit(*span, f"{new} as {written}")]
        else:
            edits.append(self.module.source.edit(*span, new))
        return [*edits, *(self.module.replace(n, new) for n in names)] if self._written(written) == len(names) + 1 else []

    def _takes(self, call: str, written: list[ir.Call]) -> bool:
        """Whether a successor takes every argument that its predecessor is given."""
        known = deprecations.parameters(call)
        return known is None or all(not a.star and (a.name is None or a.name in known) for n in written for a in n.args)

    def _line_before(self, node: ir.Import, line: str) -> Edit | None:
        """A line of its own above a statement that begins one."""
        start, _ = self.module.span(node)
        text = self.module.source.text
        indent = text[text.rfind("\n", 0, start) + 1 : start]
        return None if indent.strip() else self.module.insert(node, f"{line}\n{indent}")

    def _written(self, name: str) -> int:
        """How often a name is written, also where no expression is: in an annotation, or quoted in one or in ``__all__``."""
        plain = STRING_OR_COMMENT.sub(lambda found: found[0] if found[0][1:-1] == name else " ", self.module.source.text)
        return len(re.findall(rf"(?<![\w.]){re.escape(name)}\b", plain))

    @cached_property
    def nodes(self) -> list[ir.Node]:
        return nodes(self.module)

    @cached_property
    def attributes(self) -> list[tuple[ir.Attr, str]]:
        """Every chain of attributes on a name, written out."""
        return [(n, path) for n in self.nodes if isinstance(n, ir.Attr) and (path := dotted(n))]

    @cached_property
    def rebound(self) -> frozenset[str]:
        """Names that are bound by something other than an import."""
        names: set[str] = set()
        for node in self.nodes:
            if isinstance(node, ir.Assign):
                names |= {t.id for t in node.targets if isinstance(t, ir.Name)}
            elif isinstance(node, (ir.Function, ir.Lambda)):
                names |= {p.name for p in node.params}
            if isinstance(node, (ir.Function, ir.Class)):
                names.add(node.name)
        return frozenset(names)

    def _through_module(self, statement: Imported) -> Iterator[Use]:
        """``import peft`` … ``peft.prepare_model_for_int8_training(model)``."""
        prefix = f"{statement.bound}."
        if self.module.program.words.isdisjoint(deprecations.last_words(statement.dotted)):
            return
        if statement.bound in self.rebound or statement.node.uid in self.excused:
            return
        for node, path in self.attributes:
            if not path.startswith(prefix) or node.uid in self.excused:
                continue
            full = f"{statement.dotted}.{path.removeprefix(prefix)}"
            change = deprecations.symbol(full)
            if change is None:
                continue
            start, end = self.module.span(node)
            renamed = change.new and not change.instead and statement.bound == statement.dotted
            edits = (self.module.source.edit(start, end, change.new),) if renamed else ()
            what = f"`{change.library}` {{fate}} `{_short(full)}`"
            yield Use(full, what, change, self._place((start, end)), edits, f"write `{change.new}`")


def _short(name: str) -> str:
    return name.partition(".")[2] or name


def _changed(name: str) -> tuple[str, Change] | None:
    """The entry of an imported name, or of the module it is taken from."""
    parts = name.split(".")
    found = deprecations.symbol(name)
    if found is not None:
        return name, found
    homes = (".".join(parts[:n]) for n in range(len(parts) - 1, 1, -1))
    home = next((h for h in homes if h in deprecations.FUNCTIONS), None)
    if home is not None:
        return home, deprecations.FUNCTIONS[home]
    deep = parts[0] in ("transformers", "trl", "peft") and len(parts) > 2 and parts[-1][:1].isupper() and "experimental" not in parts
    public = f"{parts[0]}.{parts[-1]}"
    found = deprecations.symbol(public) if deep else None
    return None if found is None else (public, replace(found, since=None))  # its own module had it before it became public
