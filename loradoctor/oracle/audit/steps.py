"""The comparisons of an audit, group by group; each writes what it finds into the tally."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from ..files import directory as directories
from ..model.prepared import Prepared
from ..model.units import NoWeight, plain
from ..proof import layers as layer_check
from ..proof import merged as merging
from . import update as updates
from .cause import Fault
from .module import Module, right
from .plan import Plan, Tally, is_resized
from .sides import Side
from .untouched import Kept, compare

Progress = Callable[[str], None]

EXACT = 2**22
"""elements up to which PEFT merges a copy in float64; above, float32 keeps the memory within bounds"""


def untouched(plan: Plan, tally: Tally, pool: ThreadPoolExecutor, progress: Progress) -> None:
    """What the adapter leaves alone, byte by byte; what differs is looked at more closely."""
    progress(f"comparing {len(plan.untouched)} tensors that the adapter leaves alone")

    def one(pair: tuple[str, str]) -> Kept:
        with torch.no_grad():
            return compare(plan.ours.read(pair[1]), plan.theirs.read(pair[0]), vocabulary=pair[0] in plan.vocabulary)

    for (name, mine), kept in zip(plan.untouched, pool.map(one, plan.untouched), strict=True):
        stored = plan.theirs.shown(name)
        info = plan.theirs.weights.info(stored)
        tally.bytes += info.nbytes + plan.ours.weights.info(plan.ours.shown(mine)).nbytes
        matrix = len(info.shape) > 1
        tally.matrices += matrix
        if kept.how in ("changed", "shape"):
            tally.changed[stored] = kept
        elif kept.how != "same":
            tally.explained[kept.how] += 1
        if kept.via is not None and matrix:
            tally.via.add(kept.via)
        if kept.overflow:
            tally.faults.append(Fault("overflow", [stored], detail={"elements": kept.overflow}))


def products(plan: Plan, tally: Tally, pool: ThreadPoolExecutor, progress: Progress) -> None:
    """The weights whose update is a product, a few rows at a time."""

    def one(module: Module) -> Module:
        module.via = tuple(tally.via)
        with torch.no_grad():
            return module.measured()

    for number, module in enumerate(pool.map(one, plan.fast), 1):
        progress(f"auditing module {number} of {len(plan.fast)}")
        tally.modules.append(module)
        tally.bytes += module.base.nbytes + module.merged.nbytes


def by_peft(prepared: Prepared, plan: Plan, tally: Tally, progress: Progress) -> None:
    """The units that only PEFT itself can merge, one at a time."""
    at_hand: list[tuple[updates.Computed, updates.Dense]] = []
    for number, unit in enumerate(plan.slow, 1):
        progress(f"merging module {number} of {len(plan.slow)} to compare it")
        size = max((p.numel() for n in unit.layers for p in layer_check.base_of(prepared.adapted[n]).parameters()), default=0)
        exactly = partial(merging.merge, prepared, unit, torch.float64 if size <= EXACT else torch.float32)
        try:
            exact = exactly()
        except (merging.NotMergeable, NoWeight) as error:
            tally.uncompared.append((plain(unit.layers[0]), str(error)))
            continue
        native: dict[str, torch.Tensor] = {}
        for name, target in exact.items():
            for module in _dense(name, target, plan, tally):
                found = module.measured()
                if not right(found):
                    native = native or merging.merge(prepared, unit)
                    if _is_same(native[name], module.merged):
                        # PEFT's own arithmetic to the bit, whatever a bound says.
                        found.sums.beyond = found.sums.far = 0
                        found.sums.across = 0.0
                shape = found.update.shape
                make = partial(_again, exactly, name, found.base, shape)
                found.update = updates.Computed(shape, make, at_hand)
                tally.modules.append(found)
                tally.bytes += found.base.nbytes + found.merged.nbytes


def _is_same(own: torch.Tensor, merged: torch.Tensor) -> bool:
    return own.dtype == merged.dtype and bool(torch.equal(own.reshape(-1), merged.reshape(-1)))


def _again(exactly: Callable[[], dict[str, torch.Tensor]], name: str, base: torch.Tensor, shape: tuple[int, int]) -> updates.Dense:
    target = exactly()[name].reshape(-1, shape[1])[: shape[0]]
    return updates.Dense(target - base.reshape(shape).to(target.dtype), target)


def _dense(name: str, target: torch.Tensor, plan: Plan, tally: Tally) -> Iterator[Module]:
    """The tensor ``name``, which should be ``target``, under every name that the merged model stores it by."""
    for alias in dict.fromkeys((name, *plan.names.others(name))):
        if alias not in plan.theirs:
            continue
        merged, stored = plan.theirs.read(alias), plan.theirs.shown(alias)
        mine = plan.base(name)
        base = plan.ours.read(mine) if mine is not None else torch.zeros_like(target)
        if base.shape != target.shape:
            base = torch.zeros_like(target)
        wanted = target
        if is_resized(alias, target, merged, plan):
            rows = min(len(merged), len(target))
            merged, base, wanted = merged[:rows], base[:rows], target[:rows]
            tally.explained["resized"] += 1
        if merged.shape != wanted.shape:
            tally.changed[stored] = Kept("shape")
        elif not wanted.dtype.is_floating_point:
            if not torch.equal(wanted, merged.to(wanted.dtype)):
                tally.changed[stored] = Kept("changed")
        else:
            wide = wanted.reshape(len(wanted), -1) if wanted.dim() > 1 else wanted.reshape(1, -1)
            delta = wide - base.reshape(wide.shape).to(wide.dtype)
            yield Module(alias, stored, base, merged, updates.Dense(delta, wide), plan.adapter, tuple(tally.via))


def replaced(plan: Plan, tally: Tally) -> None:
    """What the merged model takes from the adapter's file as it is."""
    for name, target in plan.replaced.items():
        if name not in plan.theirs:
            continue
        merged, stored = plan.theirs.read(name), plan.theirs.shown(name)
        tally.bytes += 2 * merged.nbytes
        kept = compare(target, merged, vocabulary=name in plan.vocabulary)
        if kept.how not in ("changed", "shape"):
            continue
        mine = plan.base(name)
        base = plan.ours.read(mine) if mine is not None else None
        if base is None or base.shape != target.shape or merged.shape != target.shape:
            tally.changed[stored] = kept
            continue
        wide = target.reshape(len(target), -1) if target.dim() > 1 else target.reshape(1, -1)
        delta = wide.float() - base.reshape(wide.shape).float()
        tally.modules.append(Module(name, stored, base, merged, updates.Dense(delta, wide), plan.adapter, tuple(tally.via)).measured())


def missing(plan: Plan, found: directories.Merged, tally: Tally) -> None:
    """What the base or the adapter has and the merged model lacks."""
    excused = {plan.names.name(stored) for stored in found.lost}
    absent: list[str] = []
    parts = plan.ours.parts()
    wanted = dict.fromkeys((*plan.ours.stored, *plan.replaced))
    for name in wanted:
        whole = parts.get(plan.ours.stored.get(name, ""), name)
        if name in plan.theirs or name in excused or whole in plan.theirs.stored:
            continue
        if whole != name:
            absent.append(plan.ours.stored[name])
        elif any(other in plan.theirs or other in excused for other in plan.names.others(name)):
            tally.explained["tied"] += 1
        elif name not in plan.names.known:
            tally.explained["not-in-model"] += 1
        else:
            absent.append(plan.ours.stored.get(name, name))
    if absent:
        tally.faults.append(Fault("missing", absent, detail={"of": len(wanted)}))


def of_directory(found: directories.Merged, theirs: Side) -> Iterator[Fault]:
    """Files that cannot be read, and what should not be there."""
    if found.torn:
        file, reason, _ = found.torn[0]
        files = [name for name, _, _ in found.torn]
        yield Fault("torn", [], detail={"reason": reason, "files": files, "file": file, "tensors": sum(n for _, _, n in found.torn)})
    if found.config is None:
        yield Fault("no-config", [])
    elif found.config.get("quantization_config"):
        yield Fault("quantization-config", [], detail={"file": "config.json"})
    if found.adapter_config:
        yield Fault("adapter-config", [], detail={"file": "adapter_config.json"})
    for kind in ("adapter", "wrapper"):
        left = [stored for stored, what in theirs.leftovers.items() if what == kind]
        if left:
            yield Fault(f"{kind}-tensors", left)
    if theirs.unknown:
        yield Fault("unknown-tensors", theirs.unknown)
