"""What the modules of each architecture of transformers are called; the table is written by `tools/architectures.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, cached_property
from importlib.resources import files

from loradoctor.lint.record import record

Names = dict[str, dict[str, list[str]]]

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)")
_FUSED = frozenset({"qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv", "in_proj", "gate_up_proj"})
_RUNAWAY = re.compile(r"\)[*+{]|\{|[*+][*+]")
"""A repeated group: an expression that could try for ever."""
EXPRESSION = re.compile(r"[*+?^$|()\[\]{}\\]")
"""What makes a list item an expression rather than a name."""
_LAYERS = ("0", "1", "2", "3", "5", "7", "10", "11", "15", "20", "23", "27", "31", "39", "47", "63")


@record
class Architecture:
    """The modules of one architecture: dotted names with `#` for numbers.

    ``linear`` are linear and `Conv1D` modules; ``adaptable`` are these, embeddings and convolutions; ``possible`` what some
    checkpoints have besides, what releases before transformers 5 called otherwise, and fused parameters; ``other`` the last
    parts of all other modules' names.
    """

    name: str
    linear: frozenset[str]
    adaptable: frozenset[str]
    possible: frozenset[str]
    other: frozenset[str]

    def may_match(self, target: str) -> bool:
        """Whether a list item names a module of any kind in any release, as PEFT compares: the whole name, or its end after a dot."""
        return _ends(self.adaptable | self.possible, target) or target.rpartition(".")[2] in self.other

    def may_copy(self, name: str) -> bool:
        """Whether an item of `modules_to_save` names a module in any release: PEFT compares the ends of names, dot or not."""
        wanted = _NUMBER.sub("#", name)
        ends = any(full.endswith(wanted) for full in self.adaptable | self.possible)
        return ends or any(last.endswith(name.rpartition(".")[2]) for last in self.other)

    def matches_expression(self, pattern: str) -> bool | None:
        """Whether an expression is the whole name of some module; None for one that is not safe to try, or not valid."""
        if pattern.count("*") + pattern.count("+") > 3 or _RUNAWAY.search(pattern):
            return None
        try:
            expression = re.compile(pattern)
        except re.error:
            return None
        names = self.adaptable | self.possible
        return any(expression.fullmatch(full) for name in names for full in _numbered(name))

    @cached_property
    def last_names(self) -> list[str]:
        """The last parts of all names that an adapter can be put into."""
        return list(dict.fromkeys(last for name in sorted(self.adaptable, key=_place) if (last := name.rpartition(".")[2]) != "#"))

    @cached_property
    def in_blocks(self) -> list[str]:
        """The names that targets are usually chosen from: the linear layers of the repeated blocks, attention first."""
        inside = (name.rpartition(".")[2] for name in sorted(self.linear, key=_place) if "#" in name)
        return list(dict.fromkeys(name for name in inside if name != "#"))

    @property
    def fused(self) -> list[str]:
        """Projections that are one module here and several elsewhere."""
        return [name for name in self.in_blocks if name in _FUSED]


def _place(name: str) -> tuple[bool, bool, str]:
    return ("#" not in name, "att" not in name.lower(), name)


def _ends(names: Iterable[str], target: str) -> bool:
    wanted = _NUMBER.sub("#", target)
    return any(name == wanted or name.endswith(f".{wanted}") for name in names)


def _numbered(name: str) -> list[str]:
    return [name.replace("#", number) for number in _LAYERS] if "#" in name else [name]


@cache
def data() -> dict[str, Names]:
    """The table as it was written."""
    import gzip  # here and below: only a file that names targets pays for reading the table
    import json

    found: dict[str, Names] = json.loads(gzip.decompress(files(__package__).joinpath("architectures.json.gz").read_bytes()))
    return found


def table() -> Names:
    """By architecture and kind (`linear`, `conv1d`, `embedding` …) dotted module names, in which numbers are `#`."""
    return data()["architectures"]


@cache
def architecture(name: str) -> Architecture | None:
    """One architecture by its ``model_type``."""
    now, before = table().get(name), data()["earlier"].get(name, {})
    if now is None:
        return None
    linear = frozenset((*now.get("linear", ()), *now.get("conv1d", ())))
    adaptable = linear.union(now.get("embedding", ()), now.get("convolution", ()))
    possible = frozenset(n for kinds in (now, before) for kind, names in kinds.items() if kind != "other" for n in names)
    other = frozenset((*now.get("other", ()), *before.get("other", ())))
    return Architecture(name, linear, adaptable, possible - adaptable, other)


def of_class(name: str) -> str | None:
    """The ``model_type`` of a model class of transformers, by its bare name; None where that leaves modules open."""
    classes: dict[str, str] = data()["classes"]  # type: ignore[assignment]
    return classes.get(name)


def chosen_by_peft(config: str) -> frozenset[str] | None:
    """The architectures for which a PEFT configuration class knows its target modules; None for a class it has no table for."""
    known: dict[str, list[str]] = data()["defaults"]  # type: ignore[assignment]
    return frozenset(known[config]) if config in known else None


@cache
def vocabulary() -> frozenset[str]:
    """Every last part of a name in any architecture."""
    found = {name.rpartition(".")[2] for names in (table(), data()["earlier"]) for kinds in names.values() for n in kinds.values() for name in n}
    return frozenset(found)


@cache
def inner_names() -> frozenset[str]:
    """Last components that are never the whole name of a module: a regular expression that is one of them matches nothing."""
    inner: set[str] = set()
    whole: set[str] = set()
    for kinds in table().values():
        for kind, names in kinds.items():
            for name in names if kind != "other" else ():
                head, _, last = name.rpartition(".")
                (inner if head else whole).add(last)
    return frozenset(inner - whole)
