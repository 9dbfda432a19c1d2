"""What the tensors of one PEFT method look like: roles, shapes, what turns them on. Data; the judging is in `fitting`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.methods.dims import Shape
from loradoctor.checkpoint.target_modules import pattern_key

Roles = Set[str]
Shapes = Mapping[str, tuple[int, ...]]
"""Role → shape of the tensors of one module."""


@dataclass(frozen=True, slots=True)
class Switch:
    """The config field that decides whether a tensor exists; ``on`` judges its value, ``default`` is PEFT's when it is missing."""

    field: str
    default: Any = False
    on: Callable[[Any], bool] = bool
    title: str = ""

    def holds(self, config: AdapterConfig) -> bool:
        """Whether the config asks for the tensor."""
        return self.on(config.get(self.field, self.default))


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor. ``switch`` decides whether there is one; an ``optional`` one may be missing without a word (a norm without bias)."""

    shape: Shape
    switch: Switch | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensors that come together, by role. ``switches`` are the settings that allow a layout which the base model may ask for."""

    parts: Mapping[str, Part]
    switches: tuple[Switch, ...] = ()


@dataclass(frozen=True, slots=True)
class Parameter:
    """A size that the config gives: ``symbol`` in the shapes, ``field`` in the config, overridden per module by ``pattern``."""

    symbol: str
    field: str
    default: int | None = None
    pattern: str = ""

    def of(self, config: AdapterConfig, module: str) -> tuple[int, str] | None:
        """The size for ``module`` and the field it comes from; None when the config does not give a natural number."""
        source, value = self.field, config.get(self.field, self.default)
        patterns = config.pattern(self.pattern) if self.pattern else {}
        try:
            key = pattern_key(patterns, module) if patterns else None
        except (re.error, RecursionError, OverflowError):
            return None
        if key is not None:
            source, value = self.pattern, patterns[key]
        return (value, source) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


@dataclass(frozen=True, slots=True)
class Problem:
    """A config field that contradicts the tensors of a module in a way that no single size expresses."""

    field: str
    what: str


def _no_layouts(_: AdapterConfig, __: Roles) -> tuple[Layout, ...]:
    return ()


def _no_parts(_: AdapterConfig, __: Roles) -> Mapping[str, Part]:
    return {}


def _no_problem(_: AdapterConfig, __: str, ___: Shapes, ____: Mapping[str, int]) -> Iterator[Problem]:
    return iter(())


def _no_count(_: AdapterConfig, __: Mapping[str, Shapes], ___: Shapes) -> Iterator[Problem]:
    return iter(())


@dataclass(frozen=True, slots=True)
class Table:
    """A method's tensors.

    Of ``layouts`` (and of what ``layouts_for`` makes of the config and the roles that are there) one holds for each adapted module;
    which of them may depend on the base model. ``given`` are the sizes that the config gives. ``shared`` and ``shared_for`` are the
    tensors of the model as a whole, ``numbered`` those of which there are several, ``by_category`` those that the modules of a
    ``category`` share; shared tensors whose role starts with one of ``free`` are a model of their own. ``tails`` are the endings that
    belong to a role (by how it starts, as a pattern) where they are more than `weight`; anything before them is an adapter's name.
    ``judge`` knows what no shape of a module expresses, ``judge_all`` (of the shapes by module, and the shared ones) what no module
    does. In ``dense`` tensors two axes are the base's, so that the transpose of one may be another layer's.

    ``merges`` is empty when PEFT folds the adapter into the base weights, else why it does not. ``rebuilt`` says that PEFT computes
    a part of the adapter from the base weights on load, so that another base gives another adapter without a word. ``identity`` is
    the value of all entries, by role, while the adapter does nothing, where that is how training starts.
    """

    layouts: tuple[Layout, ...] = ()
    given: tuple[Parameter, ...] = ()
    layouts_for: Callable[[AdapterConfig, Roles], tuple[Layout, ...]] = _no_layouts
    shared: Mapping[str, Part] = field(default_factory=dict)
    shared_for: Callable[[AdapterConfig, Roles], Mapping[str, Part]] = _no_parts
    numbered: Mapping[str, Part] = field(default_factory=dict)
    by_category: Mapping[str, Part] = field(default_factory=dict)
    category: Callable[[str], str] = str
    free: tuple[str, ...] = ()
    tails: Mapping[str, str] = field(default_factory=dict)
    judge: Callable[[AdapterConfig, str, Shapes, Mapping[str, int]], Iterator[Problem]] = _no_problem
    judge_all: Callable[[AdapterConfig, Mapping[str, Shapes], Shapes], Iterator[Problem]] = _no_count
    dense: bool = False
    merges: str = ""
    rebuilt: bool = False
    identity: Mapping[str, float] = field(default_factory=dict)


def part(*shape: Any, switch: Switch | None = None, optional: bool = False) -> Part:
    """A tensor of this shape."""
    return Part(shape, switch, optional)


def each(**parts: Part) -> dict[str, Part]:
    """Parts by role, for roles that are identifiers."""
    return parts
