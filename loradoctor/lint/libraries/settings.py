"""Command lines, configuration classes and the environment: values that are unknown, and what they are unless somebody says otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.lint import ir
from loradoctor.lint.flow.classes import fields, find_in_class
from loradoctor.lint.flow.facts import Instance
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import Function, Items, Known, Ref, Table, Unknown, UserClass, Value
from loradoctor.lint.libraries.effects import Context, Spec

_OPTION = "--"
"""What stands before the name of an option among a parser's attributes."""


def _parser(context: Context) -> Value:
    return context.new(Instance(context.node, context.name))


def _same_parser(context: Context) -> Value | None:
    return context.receiver


def _add_argument(context: Context) -> Value | None:
    """Remember an option's default under the name it will have on the result."""
    oid = context.state.oid(context.receiver)
    flags = [v.value for v in context.binding.positional if isinstance(v, Known) and isinstance(v.value, str)]
    named, default = context.known("dest"), context.arg("default")
    long = [f for f in flags if f.startswith("--")] or flags
    name = named if isinstance(named, str) else long[0].lstrip("-").replace("-", "_") if long else ""
    if oid is not None and name and isinstance(default, Known) and default.value is not None:
        context.state.attrs[oid, f"{_OPTION}{name}"] = default
    return None


def _set_defaults(context: Context) -> Value | None:
    oid = context.state.oid(context.receiver)
    for name, value in context.binding.values.items():
        if oid is not None and isinstance(value, Known):
            context.state.attrs[oid, f"{_OPTION}{name}"] = value
    return None


def _parse_args(context: Context) -> Value:
    """An unknown namespace; the defaults of its attributes go into the trace."""
    made = context.machine.fresh(context.node.uid, context.state, "args")
    prefix = f"{made.key}[0]" if context.name.endswith("parse_known_args") else made.key
    oid = context.state.oid(context.receiver)
    for (owner, name), value in context.state.attrs.items():
        if owner == oid and name.startswith(_OPTION):
            context.machine.trace.defaults[f"{prefix}.{name.removeprefix(_OPTION)}"] = value
    return made


def _class_parser(context: Context) -> Value:
    made = context.new(Instance(context.node, context.name))
    oid, types = context.state.oid(made), context.arg("dataclass_types")
    if oid is not None and types is not None:
        context.state.attrs[oid, "dataclass_types"] = types
    return made


def _parse_classes(context: Context) -> Value:
    """Unknown objects, one for each class; the defaults of their fields go into the trace."""
    made = context.machine.fresh(context.node.uid, context.state, "args")
    oid = context.state.oid(context.receiver)
    types = context.state.attrs.get((oid, "dataclass_types")) if oid is not None else None
    for index, cls in enumerate(types.items if isinstance(types, Items) else (types,)):
        for name, value in _defaults(cls, context.state):
            context.machine.trace.defaults[f"{made.key}[{index}].{name}"] = value
    return made


def _parse_class(context: Context) -> Value | None:
    """`tyro.cli(Config)` and its like: one object."""
    made = context.machine.fresh(context.node.uid, context.state, "args")
    for name, value in _defaults(context.arg("cls"), context.state):
        context.machine.trace.defaults[f"{made.key}.{name}"] = value
    return made


def _defaults(cls: Value | None, state: State) -> Iterator[tuple[str, Value]]:
    """The literal class attributes of a class of this project, those of its bases first."""
    if not isinstance(cls, UserClass):
        return
    for base in cls.bases:
        yield from _defaults(base, state)
    for (scope, name), value in state.vars.items():
        if scope == cls.scope and isinstance(value, Known) and value.value is not None:
            yield name, value


def _field(context: Context) -> Value | None:
    """What a field is without an argument; a factory that is a plain `lambda`, `list` or `dict` is asked."""
    from loradoctor.lint.flow.evaluate import single

    default, factory = context.arg("default"), context.arg("default_factory")
    if default is not None or factory is None:
        return default
    if isinstance(factory, Function) and isinstance(factory.node, ir.Lambda):
        return single(context.machine, factory.node.body, context.state, factory.scope)[0]
    return Items("list", ()) if factory == Ref("builtins.list") else Table(()) if factory == Ref("builtins.dict") else None


def _dict(context: Context) -> Value | None:
    """`dict(table, name=value)`, `dict(pairs)`."""
    items: list[tuple[object, Value]] = []
    complete = not context.binding.open
    for given in context.binding.positional:
        if isinstance(given, Table):
            items += given.items
            complete &= given.complete
            continue
        pairs = given.items if isinstance(given, Items) else (given,)
        for pair in pairs:
            match pair:
                case Items(items=(Known(value=key), value)):
                    items.append((key, value))
                case _:
                    complete = False
    items += context.binding.values.items()
    return Table(tuple(items), complete) if items or complete else None


def _fields(context: Context) -> Value | None:
    """The fields of an object of a data class as a dict: what it was made with and, for the rest, their defaults."""
    made = context.arg("object")
    oid = context.state.oid(made)
    cls = context.state.attrs.get((oid, "__class__")) if oid is not None else None
    if oid is None or not isinstance(cls, UserClass):
        return None
    names = fields(cls)
    held = {name: context.state.attrs.get((oid, name)) or find_in_class(cls, name, context.state) for name in names}
    known = tuple((name, value) for name, value in held.items() if value is not None)
    return Table(known, complete=len(known) == len(names)) if names else None


def _variable(context: Context) -> Value | None:
    """A variable of the environment: the same unknown wherever it is asked for."""
    key, default = context.arg("key"), context.arg("default")
    if not isinstance(key, Known):
        return None
    made = Unknown(f"environment:{key.value}")
    if isinstance(default, Known) and default.value is not None:
        context.machine.give_up()
        context.machine.trace.defaults[made.key] = default
    return made


_PARSER = "argparse.ArgumentParser"
_quiet = False
_ARGUMENT = Spec(("flag",), _add_argument, recorded=_quiet)
_PARSE = Spec((), _parse_classes, recorded=_quiet)
_CLASSES = Spec(("dataclass_types",), _class_parser, recorded=_quiet)

FUNCTIONS = {
    _PARSER: Spec((), _parser, recorded=_quiet),
    f"{_PARSER}.add_argument": _ARGUMENT,
    f"{_PARSER}.set_defaults": Spec((), _set_defaults, recorded=_quiet),
    f"{_PARSER}.add_argument_group": Spec((), _same_parser, recorded=_quiet),
    f"{_PARSER}.add_mutually_exclusive_group": Spec((), _same_parser, recorded=_quiet),
    f"{_PARSER}.parse_args": Spec((), _parse_args, recorded=_quiet),
    f"{_PARSER}.parse_known_args": Spec((), _parse_args, recorded=_quiet),
    "dataclasses.field": Spec((), _field, recorded=_quiet),
    "dataclasses.asdict": Spec(("object",), _fields, recorded=_quiet),
    "builtins.vars": Spec(("object",), _fields, recorded=_quiet),
    "builtins.dict": Spec((), _dict, recorded=_quiet),
    "os.getenv": Spec(("key", "default"), _variable, recorded=_quiet),
    "os.environ.get": Spec(("key", "default"), _variable, recorded=_quiet),
    "tyro.cli": Spec(("cls",), _parse_class, recorded=_quiet),
    "simple_parsing.parse": Spec(("cls",), _parse_class, recorded=_quiet),
    "pyrallis.parse": Spec(("cls",), _parse_class, recorded=_quiet),
}
_WAYS = ("args_into_dataclasses", "args_and_config", "json_file", "yaml_file", "dict")
for _name in ("transformers.HfArgumentParser", "trl.TrlParser"):
    FUNCTIONS |= {_name: _CLASSES} | {f"{_name}.parse_{way}": _PARSE for way in _WAYS}
PATTERNS: dict[str, Spec] = {}
METHODS: dict[tuple[str, ...], dict[str, Spec]] = {}
