"""A merged model that exists: every tensor of it is what base and adapter make it, or is named with the cause."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import cause as causes
from . import directory as directories
from . import layers as layer_check
from . import merged as merging
from . import update as updates
from .cause import Fault, Module
from .compare import Sums, measure
from .isolated import reads_base_weights
from .load import ADAPTER, FROM_FILE
from .prepared import Prepared
from .sides import Names, Side, put_together, side
from .units import NoWeight, plain
from .untouched import Kept, compare
from .weights import WeightsError

Progress = Callable[[str], None]

THREADS = min(2, os.cpu_count() or 1)
"""More would wait for memory; every one of them needs the temporaries of a chunk."""

EXACT = 2**22
"""elements up to which PEFT merges a copy in float64; above, float32 keeps the memory within bounds"""

EXAMPLES = 5


@dataclass
class _Tally:
    """What is known so far; tensors by their stored names in the merged model."""

    modules: list[Module] = field(default_factory=list)
    explained: Counter[str] = field(default_factory=Counter)
    changed: dict[str, Kept] = field(default_factory=dict)
    matrices: int = 0
    via: set[torch.dtype] = field(default_factory=set)
    uncompared: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    bytes: int = 0


def audit(prepared: Prepared, merged_directory: str | Path, progress: Progress) -> dict[str, Any]:
    """Hold the model in ``merged_directory`` against the base and adapter of ``prepared``.

    ``status`` is ``passed``, ``failed`` or ``not-run`` (``reason`` says why); ``faults`` are one per cause: ``cause``, ``count``,
    ``examples`` and ``files`` (both of stored tensors), ``coefficient``, ``residual``, ``detail``. ``tensors``, ``touched`` and
    ``bytes`` (of both models) say how much was compared, ``explained`` how many tensors differ for a good reason. ``lost`` is
    ‖M-T‖/‖Δ‖ of all modules, ``worst`` that of the worst, ``effect`` ‖Δ‖/‖W‖, ``coefficient`` the pooled ŝ.
    """
    found = directories.read(Path(merged_directory))
    if found.cause in ("gguf", "quantized"):
        return {"status": "not-run", "reason": found.reason, "faults": []}
    if found.cause:
        return _failed([Fault(found.cause, [], detail={"reason": found.reason})], found)
    if reason := _obstacle(prepared):
        return {"status": "not-run", "reason": reason, "faults": []}
    try:
        return _audit(prepared, found, progress)
    except WeightsError as error:
        return {"status": "not-run", "reason": str(error), "faults": []}


def _audit(prepared: Prepared, found: directories.Merged, progress: Progress) -> dict[str, Any]:
    progress("auditing the merged model")
    prepared.weights.obtain_all()
    names = Names.of(prepared)
    ours, theirs = side(prepared.weights, names), side(found.weights, names)
    if ours.unknown or theirs.unknown:
        bare = prepared.base.again().model
        for one in (ours, theirs):
            put_together(one, names, bare)
    # What the base has and the model does not know either is the base's own affair.
    theirs.unknown = [stored for stored in theirs.unknown if stored not in ours.weights]
    tally = _Tally()
    tally.faults += _of_directory(found, theirs)
    if found.torn and not theirs.stored:
        return _failed(tally.faults, found)
    with torch.no_grad(), ThreadPoolExecutor(THREADS) as pool:
        plan = _plan(prepared, names, ours, theirs, tally)
        _compare_untouched(plan, tally, pool, progress)
        _measure(plan, tally, pool, progress)
        _by_peft(prepared, plan, tally, progress)
        _replaced(plan, tally)
        _missing(plan, found, tally)
        faults = _judged(plan, tally)
    progress("the audit is done")
    return _result([*tally.faults, *faults], tally, plan, found)


def _obstacle(prepared: Prepared) -> str:
    if prepared.weights_error:
        return prepared.weights_error
    if prepared.model is None:
        return "PEFT does not load the adapter onto this base"
    if prepared.model.peft_config[ADAPTER].is_prompt_learning:
        return "prompt learning adds inputs, not weights: there is nothing to merge"
    return ""


# -- what is to be compared with what -------------------------------------------------------------------------------------------


@dataclass
class _Plan:
    names: Names
    ours: Side
    theirs: Side
    fast: list[Module] = field(default_factory=list)
    slow: list[merging.Unit] = field(default_factory=list)
    replaced: dict[str, torch.Tensor] = field(default_factory=dict)
    untouched: list[tuple[str, str]] = field(default_factory=list)
    """(model's name, its name in the base) of what no adapter changes"""
    vocabulary: frozenset[str] = frozenset()
    adapter_dtype: torch.dtype = torch.float32

    def base(self, name: str) -> str | None:
        """The model's name under which the base stores ``name`` or what it is tied to."""
        if name in self.ours:
            return name
        return next((n for n in self.names.others(name) if n in self.ours), None)


def _plan(prepared: Prepared, names: Names, ours: Side, theirs: Side, tally: _Tally) -> _Plan:
    plan = _Plan(names, ours, theirs, vocabulary=_vocabulary(prepared), adapter_dtype=_stored_dtype(prepared))
    config = prepared.model.peft_config[ADAPTER]
    plan.replaced = merging.replaced(prepared)
    touched: set[str] = set()
    proven: dict[Any, bool] = {}
    for unit in merging.units(prepared):
        layer = prepared.adapted[unit.layers[0]]
        low = updates.low_rank(layer) if len(unit.layers) == 1 and not reads_base_weights(config) else None
        if low is not None:
            kind = (type(layer), getattr(layer, "fan_in_fan_out", False))
            if kind not in proven:
                proven[kind] = updates.proven(layer, low)
            if not proven[kind]:
                low = None
        if low is None:
            plan.slow.append(unit)
            touched.update(unit.names)
        else:
            own = f"{plain(unit.layers[0])}.weight"
            touched.update({own, *names.others(own)})
            for key, parameter in layer_check.base_of(layer).named_parameters():
                if key != "weight" and getattr(parameter, FROM_FILE, False):
                    plan.replaced[f"{plain(unit.layers[0])}.{key}"] = parameter.data
            plan.fast += _fast(layer, own, low, plan, config, tally)
    touched.update(plan.replaced)
    for name in _entries(ours, theirs, touched):
        mine = plan.base(name)
        if mine is not None:
            plan.untouched.append((name, mine))
        elif name in names.known:
            tally.explained["new"] += 1
    tally.explained["renamed"] += sum(n in ours and ours.shown(n) != theirs.shown(n) for n in (*theirs.stored, *theirs.made))
    return plan


def _entries(ours: Side, theirs: Side, touched: set[str]) -> Iterator[str]:
    """What to compare of the merged model: parts one by one where both sides have the same, else what is made of them."""
    parts = theirs.parts()
    alike = {whole for whole, made_of in theirs.made.items() if set(made_of) == set(ours.made.get(whole, ()))}
    for name, stored in theirs.stored.items():
        whole = parts.get(stored, name)
        if whole not in touched and (whole == name or whole in alike):
            yield name
    yield from (whole for whole in theirs.made if whole not in touched and whole not in alike)


def _fast(layer: nn.Module, own: str, low: updates.LowRank, plan: _Plan, config: Any, tally: _Tally) -> Iterator[Module]:
    parameter = layer_check.base_of(layer).weight
    mine = plan.base(own)
    if getattr(parameter, FROM_FILE, False):
        base = parameter.data
    elif mine is None:
        tally.uncompared.append((own, f"the base's files have no weight for `{own}`"))
        return
    else:
        base = plan.ours.read(mine)
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
        if merged.shape != base.shape and name in plan.vocabulary and merged.shape[1:] == base.shape[1:]:
            rows = min(len(merged), len(base))
            merged, base, low = merged[:rows], base[:rows], updates.LowRank(low.left[:rows], low.right)
            tally.explained["resized"] += 1
        if merged.shape != base.shape:
            tally.changed[plan.theirs.shown(name)] = Kept("shape")
            continue
        module = Module(name, plan.theirs.shown(name), base, merged, low, usual=usual, rslora=rslora)
        module.rank, module.alpha, module.scale = int(found.r[ADAPTER]), float(found.lora_alpha[ADAPTER]), float(found.scaling[ADAPTER])
        yield module


def _vocabulary(prepared: Prepared) -> frozenset[str]:
    """The model's names of tensors with a row for every token."""
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


def _stored_dtype(prepared: Prepared) -> torch.dtype:
    return next((t.dtype for t in prepared.tensors.values() if t.dtype.is_floating_point and t.dtype.itemsize == 2), torch.float32)


# -- comparing ------------------------------------------------------------------------------------------------------------------


def _compare_untouched(plan: _Plan, tally: _Tally, pool: ThreadPoolExecutor, progress: Progress) -> None:
    progress(f"comparing {len(plan.untouched)} tensors that the adapter leaves alone")

    def one(pair: tuple[str, str]) -> Kept:
        with torch.no_grad():
            return compare(plan.ours.read(pair[1]), plan.theirs.read(pair[0]), vocabulary=pair[0] in plan.vocabulary)

    for (name, mine), kept in zip(plan.untouched, pool.map(one, plan.untouched), strict=True):
        info = plan.theirs.weights.info(plan.theirs.shown(name))
        tally.bytes += info.nbytes + plan.ours.weights.info(plan.ours.shown(mine)).nbytes
        matrix = len(info.shape) > 1
        tally.matrices += matrix
        if kept.how in ("changed", "shape"):
            tally.changed[plan.theirs.shown(name)] = kept
        elif kept.how != "same":
            tally.explained[kept.how] += 1
        if kept.via is not None and matrix:
            tally.via.add(kept.via)
        if kept.overflow:
            tally.faults.append(Fault("overflow", [plan.theirs.shown(name)], detail={"elements": kept.overflow}))


def _measure(plan: _Plan, tally: _Tally, pool: ThreadPoolExecutor, progress: Progress) -> None:
    def one(module: Module) -> Sums:
        module.via = tuple(tally.via)
        with torch.no_grad():
            return measure(module.base, module.merged, module.update, plan.adapter_dtype, module.via)

    for number, (module, sums) in enumerate(zip(plan.fast, pool.map(one, plan.fast), strict=True), 1):
        progress(f"auditing module {number} of {len(plan.fast)}")
        module.sums = sums
        tally.modules.append(module)
        tally.bytes += module.base.nbytes + module.merged.nbytes


def _by_peft(prepared: Prepared, plan: _Plan, tally: _Tally, progress: Progress) -> None:
    """The units that only PEFT itself can merge, one at a time."""
    for number, unit in enumerate(plan.slow, 1):
        progress(f"merging module {number} of {len(plan.slow)} to compare it")
        size = max((p.numel() for n in unit.layers for p in layer_check.base_of(prepared.adapted[n]).parameters()), default=0)
        try:
            exact = merging.merge(prepared, unit, torch.float64 if size <= EXACT else torch.float32)
        except (merging.NotMergeable, NoWeight) as error:
            tally.uncompared.append((plain(unit.layers[0]), str(error)))
            continue
        native: dict[str, torch.Tensor] = {}
        for name, target in exact.items():
            for module in _dense(name, target, plan, tally):
                module.sums = measure(module.base, module.merged, module.update, plan.adapter_dtype, module.via)
                if not causes.right(module):
                    native = native or merging.merge(prepared, unit)
                    own = native[name]
                    if own.dtype == module.merged.dtype and torch.equal(own.reshape(-1), module.merged.reshape(-1)):
                        # PEFT's own arithmetic to the bit, whatever a bound says.
                        module.sums.beyond = module.sums.far = 0
                        module.sums.across = 0.0
                tally.modules.append(module)
                tally.bytes += module.base.nbytes + module.merged.nbytes


def _dense(name: str, target: torch.Tensor, plan: _Plan, tally: _Tally) -> Iterator[Module]:
    for stored in dict.fromkeys((name, *plan.names.others(name))):
        if stored not in plan.theirs:
            continue
        merged = plan.theirs.read(stored)
        mine = plan.base(name)
        base = plan.ours.read(mine) if mine is not None else torch.zeros_like(target)
        if base.shape != target.shape:
            base = torch.zeros_like(target)
        if merged.shape != target.shape and stored in plan.vocabulary and merged.shape[1:] == target.shape[1:]:
            rows = min(len(merged), len(target))
            merged, base, target = merged[:rows], base[:rows], target[:rows]
            tally.explained["resized"] += 1
        if merged.shape != target.shape:
            tally.changed[plan.theirs.shown(stored)] = Kept("shape")
            continue
        if not target.dtype.is_floating_point:
            if not torch.equal(target, merged.to(target.dtype)):
                tally.changed[plan.theirs.shown(stored)] = Kept("changed")
            continue
        wide = target.reshape(len(target), -1) if target.dim() > 1 else target.reshape(1, -1)
        delta = wide - base.reshape(wide.shape).to(wide.dtype)
        yield Module(stored, plan.theirs.shown(stored), base, merged, updates.Dense(delta, wide), via=tuple(tally.via))


def _replaced(plan: _Plan, tally: _Tally) -> None:
    """What the merged model takes from the adapter's file as it is."""
    for name, target in plan.replaced.items():
        if name not in plan.theirs:
            continue
        merged = plan.theirs.read(name)
        tally.bytes += 2 * merged.nbytes
        kept = compare(target, merged, vocabulary=name in plan.vocabulary)
        if kept.how not in ("changed", "shape"):
            continue
        mine = plan.base(name)
        base = plan.ours.read(mine) if mine is not None else None
        if base is None or base.shape != target.shape or merged.shape != target.shape:
            tally.changed[plan.theirs.shown(name)] = kept
            continue
        wide = target.reshape(len(target), -1) if target.dim() > 1 else target.reshape(1, -1)
        delta = wide.float() - base.reshape(wide.shape).float()
        module = Module(name, plan.theirs.shown(name), base, merged, updates.Dense(delta, wide), via=tuple(tally.via))
        module.sums = measure(base, merged, module.update, plan.adapter_dtype, module.via)
        tally.modules.append(module)


# -- what is missing, what is left over -----------------------------------------------------------------------------------------


def _missing(plan: _Plan, found: directories.Merged, tally: _Tally) -> None:
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


def _of_directory(found: directories.Merged, theirs: Side) -> Iterator[Fault]:
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


# -- the verdict ----------------------------------------------------------------------------------------------------------------


def _judged(plan: _Plan, tally: _Tally) -> list[Fault]:
    faults = causes.classify(tally.modules)
    shapes = [stored for stored, kept in tally.changed.items() if kept.how == "shape"]
    changed = [stored for stored, kept in tally.changed.items() if kept.how == "changed"]
    if shapes:
        faults.append(Fault("shape", shapes))
    if not changed:
        return faults
    odd = sum(len(f.tensors) for f in faults if f.cause in ("unexplained", "other-adapter"))
    matrices = [s for s in changed if len(plan.theirs.weights.info(s).shape) > 1]
    relative = max(tally.changed[stored].relative for stored in changed)
    detail = {"of": len(plan.untouched), "relative": relative}
    if len(matrices) * 2 > tally.matrices and odd * 2 > len(tally.modules):
        return [*(f for f in faults if f.cause not in _BY_ANOTHER_BASE), Fault("other-base", changed, detail=detail)]
    return [*faults, Fault("weights-changed", changed, detail=detail)]


_BY_ANOTHER_BASE = frozenset({"unexplained", "other-adapter", "wrong-scale", "partly-merged", "not-merged"})


def _failed(faults: Sequence[Fault], found: directories.Merged) -> dict[str, Any]:
    return {"status": "failed", "reason": "", "faults": [_as_json(f, found) for f in faults]}


def _result(faults: list[Fault], tally: _Tally, plan: _Plan, found: directories.Merged) -> dict[str, Any]:
    sums = [m.sums for m in tally.modules]
    size, update = sum(s.size for s in sums), sum(s.update for s in sums)
    across = sum(s.across for s in sums)
    status, reason = ("failed", "") if faults else ("passed", "")
    if tally.uncompared and not faults:
        name, why = tally.uncompared[0]
        status, reason = "not-run", f"{len(tally.uncompared)} of the adapted modules could not be compared, first `{name}`: {why}"
    return {
        "status": status,
        "reason": reason,
        "faults": [_as_json(f, found) for f in faults],
        "tensors": len(plan.theirs.stored),
        "touched": len(tally.modules),
        "bytes": tally.bytes,
        "explained": dict(tally.explained),
        "via": sorted(str(d).removeprefix("torch.") for d in tally.via),
        "coefficient": 1 + across / update if update else None,
        "lost": causes.lost(sums),
        "worst": max((s.lost for s in sums if s.update > 0), default=None),
        "effect": math.sqrt(update / size) if size else None,
    }


def _as_json(fault: Fault, found: directories.Merged) -> dict[str, Any]:
    shown = fault.tensors[:EXAMPLES]
    files = [found.weights.file_of(name).name if name in found.weights else None for name in shown]
    record = {key: value for key, value in asdict(fault).items() if key != "tensors"}
    return {**record, "count": len(fault.tensors), "examples": shown, "files": files}
