"""What an audit compares with what: the weights that the adapter changes, in three groups, and everything else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..model.isolated import reads_base_weights
from ..model.load import ADAPTER, FROM_FILE
from ..model.prepared import Prepared
from ..model.units import plain
from ..proof import layers as layer_check
from ..proof import lora_update
from ..proof import merged as merging
from .cause import Fault
from .compare import Update
from .module import Module
from .sides import Names, Side
from .untouched import Kept, compare
from .update import LowRank


@dataclass
class Tally:
    """What is known so far; tensors by their stored names in the merged model."""

    modules: list[Module] = field(default_factory=list)
    explained: Counter[str] = field(default_factory=Counter)
    changed: dict[str, Kept] = field(default_factory=dict)
    matrices: int = 0
    """tensors with more than one dimension that the adapter leaves alone"""
    via: set[torch.dtype] = field(default_factory=set)
    uncompared: list[tuple[str, str]] = field(default_factory=list)
    """(module, why)"""
    faults: list[Fault] = field(default_factory=list)
    bytes: int = 0


@dataclass
class Plan:
    """``fast`` are the weights whose update is a product, ``slow`` what only PEFT can merge, ``replaced`` what the file has as it is."""

    names: Names
    ours: Side
    theirs: Side
    fast: list[Module] = field(default_factory=list)
    slow: list[merging.Unit] = field(default_factory=list)
    replaced: dict[str, torch.Tensor] = field(default_factory=dict)
    untouched: list[tuple[str, str]] = field(default_factory=list)
    """(model's name, its name in the base) of what no adapter changes"""
    vocabulary: frozenset[str] = frozenset()
    """the model's names of tensors with a row for every token"""
    adapter: torch.dtype = torch.float32
    """what the adapter is stored in"""

    def base(self, name: str) -> str | None:
        """The model's name under which the base stores ``name`` or what it is tied to."""
        if name in self.ours:
            return name
        return next((n for n in self.names.others(name) if n in self.ours), None)


def make(prepared: Prepared, names: Names, ours: Side, theirs: Side, tally: Tally) -> Plan:
    """Sort every tensor of the merged model. What differs in shape or cannot be compared is noted in ``tally``."""
    half = (t.dtype for t in prepared.tensors.values() if t.dtype.is_floating_point and t.dtype.itemsize == 2)
    plan = Plan(names, ours, theirs, vocabulary=_vocabulary(prepared), adapter=next(half, torch.float32))
    plan.replaced = merging.replaced(prepared)
    config = prepared.model.peft_config[ADAPTER]
    touched: set[str] = set()
    proven: dict[Any, bool] = {}
    for unit in merging.units(prepared):
        layer = prepared.adapted[unit.layers[0]]
        own = f"{plain(unit.layers[0])}.weight"
        update = _product(layer, own, plan, proven) if len(unit.layers) == 1 and not reads_base_weights(config) else None
        if update is None:
            plan.slow.append(unit)
            touched.update(unit.names)
            continue
        touched.update({own, *names.others(own)})
        for key, parameter in layer_check.base_of(layer).named_parameters():
            if key != "weight" and getattr(parameter, FROM_FILE, False):
                plan.replaced[f"{plain(unit.layers[0])}.{key}"] = parameter.data
        plan.fast += _modules(layer, own, update, plan, config, tally)
    touched.update(plan.replaced)
    for name in _entries(ours, theirs, touched):
        mine = plan.base(name)
        if mine is not None:
            plan.untouched.append((name, mine))
        elif name in names.known:
            tally.explained["new"] += 1
    tally.explained["renamed"] += sum(n in ours and ours.shown(n) != theirs.shown(n) for n in (*theirs.stored, *theirs.made))
    return plan


def _product(layer: nn.Module, own: str, plan: Plan, proven: dict[Any, bool]) -> Update | None:
    """The update of a LoRA or DoRA layer; PEFT's own words are asked for once per kind of layer."""
    low = lora_update.low_rank(layer)
    if low is None:
        return lora_update.dora(layer, lambda: _base(layer, own, plan))
    kind = (type(layer), getattr(layer, "fan_in_fan_out", False))
    if kind not in proven:
        proven[kind] = lora_update.proven(layer, low)
    return low if proven[kind] else None


def _base(layer: nn.Module, own: str, plan: Plan) -> torch.Tensor | None:
    parameter = layer_check.base_of(layer).weight
    if getattr(parameter, FROM_FILE, False):
        return parameter.data
    mine = plan.base(own)
    return plan.ours.read(mine) if mine is not None else None


def _modules(layer: nn.Module, own: str, update: Update, plan: Plan, config: Any, tally: Tally) -> Iterator[Module]:
    """The adapted weight under every name that it is stored by."""
    base = _base(layer, own, plan)
    if base is None:
        tally.uncompared.append((own, f"the base's files have no weight for `{own}`"))
        return
    if not base.dtype.is_floating_point or base.dtype.itemsize < 2:
        tally.uncompared.append((own, f"the base is quantized ({base.dtype})"))
        return
    found: Any = layer
    rslora = bool(getattr(config, "use_rslora", False))
    usual = config.lora_alpha / (math.sqrt(config.r) if rslora else config.r)
    for name in (own, *plan.names.others(own)):
        if name not in plan.theirs:
            continue
        merged = plan.theirs.read(name)
        # A module without an adapter that is tied to this one: untied, it keeps the base's weight.
        if name != own and compare(base, merged, vocabulary=False).how in ("same", "cast"):
            continue
        original = base
        if isinstance(update, LowRank) and is_resized(name, base, merged, plan):
            rows = min(len(merged), len(base))
            merged, original, update = merged[:rows], base[:rows], update.first(rows)
            tally.explained["resized"] += 1
        if merged.shape != original.shape:
            tally.changed[plan.theirs.shown(name)] = Kept("shape")
            continue
        module = Module(name, plan.theirs.shown(name), original, merged, update, plan.adapter, usual=usual, rslora=rslora)
        module.rank, module.alpha, module.scale = int(found.r[ADAPTER]), float(found.lora_alpha[ADAPTER]), float(found.scaling[ADAPTER])
        yield module


def is_resized(name: str, base: torch.Tensor, merged: torch.Tensor, plan: Plan) -> bool:
    """Whether the merged model has more or fewer tokens than the base."""
    return name in plan.vocabulary and merged.shape != base.shape and merged.shape[1:] == base.shape[1:]


def _entries(ours: Side, theirs: Side, touched: set[str]) -> Iterator[str]:
    """What to compare of the merged model: parts one by one where both sides have the same, else what is made of them."""
    parts = theirs.parts()
    alike = {whole for whole, made_of in theirs.made.items() if set(made_of) == set(ours.made.get(whole, ()))}
    for name, stored in theirs.stored.items():
        whole = parts.get(stored, name)
        if whole not in touched and (whole == name or whole in alike):
            yield name
    yield from (whole for whole in theirs.made if whole not in touched and whole not in alike)


def _vocabulary(prepared: Prepared) -> frozenset[str]:
    found: set[str] = set()
    model = prepared.base.model
    for get in ("get_input_embeddings", "get_output_embeddings"):
        try:
            module = getattr(model, get)()
        except (AttributeError, NotImplementedError):
            continue
        if isinstance(module, nn.Module):
            for parameter in module.parameters():
                found.update(prepared.base.names.get(id(parameter), ()))
    return frozenset(found)
