"""A merged model that exists: every tensor of it is what base and adapter make it, or is named with the cause."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..files import directory as directories
from ..files.weights import WeightsError
from ..model.load import ADAPTER
from ..model.prepared import Prepared, quantization
from . import cause as causes
from . import plan as audit_plan
from . import requantized, suspects
from . import steps as audit_steps
from .cause import Fault
from .plan import Plan, Tally
from .sides import Names, put_together, side

Progress = Callable[[str], None]

THREADS = min(2, os.cpu_count() or 1)
"""More would wait for memory; every one of them needs the temporaries of a chunk."""

EXAMPLES = 5
"""tensors that a fault names"""


def audit(prepared: Prepared, merged_directory: str | Path, progress: Progress) -> dict[str, Any]:
    """Hold the model in ``merged_directory`` against the base and adapter of ``prepared``.

    ``status`` is ``passed``, ``failed`` or ``not-run``: ``reason`` says why, ``base_missing`` whether for want of the base's weights.
    ``faults`` are one per cause: ``cause``, ``count``, ``examples`` and ``files`` (both of stored tensors), ``coefficient``,
    ``residual``, ``detail``. ``tensors``, ``touched`` and ``bytes`` (of both models) say how much was compared, ``explained`` how many
    tensors differ for a good reason. ``lost`` is ‖M-T‖/‖Δ‖ of all modules, ``worst`` that of the worst, ``effect`` ‖Δ‖/‖W‖,
    ``coefficient`` the pooled ŝ.
    """
    directory = Path(merged_directory)
    # The merged copy of a pipeline may be the pipeline or the part that was adapted.
    part = prepared.base.part if (directory / prepared.base.part / "config.json").is_file() else ""
    found = directories.read(directory / part)
    found.part = part
    if found.cause in ("gguf", "quantized"):
        return {"status": "not-run", "reason": found.reason, "faults": []}
    if found.cause:
        return _failed([Fault(found.cause, [], detail={"reason": found.reason})], found)
    if reason := _obstacle(prepared):
        missing = bool(prepared.weights_error) and quantization(prepared.base) is None
        return {"status": "not-run", "reason": reason, "faults": [], "base_missing": missing}
    try:
        return _audit(prepared, found, progress)
    except WeightsError as error:
        return {"status": "not-run", "reason": str(error), "faults": []}


def _obstacle(prepared: Prepared) -> str:
    if prepared.weights_error:
        return prepared.weights_error
    if prepared.model is None:
        return "PEFT does not load the adapter onto this base"
    config = prepared.model.peft_config[ADAPTER]
    if config.is_prompt_learning:
        return "prompt learning adds inputs, not weights: there is nothing to merge"
    init = str(prepared.raw.get("init_lora_weights")).lower()
    if init.startswith("pissa_niter"):
        return f"`{init}` is a randomised decomposition that PEFT repeats at every load: there is no one right merge"
    return ""


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
    tally = Tally()
    tally.faults += audit_steps.of_directory(found, theirs)
    if found.torn and not theirs.stored:
        return _failed(tally.faults, found)
    with torch.no_grad(), ThreadPoolExecutor(THREADS) as pool:
        plan = audit_plan.make(prepared, names, ours, theirs, tally)
        audit_steps.untouched(plan, tally, pool, progress)
        audit_steps.products(plan, tally, pool, progress)
        audit_steps.by_peft(prepared, plan, tally, progress)
        audit_steps.replaced(plan, tally)
        audit_steps.missing(plan, found, tally)
        faults = _together([*tally.faults, *_judged(plan, tally, pool)])
    progress("the audit is done")
    return _result(faults, tally, plan, found)


def _together(faults: Sequence[Fault]) -> list[Fault]:
    """One fault for all tensors that a cast made infinite."""
    infinite = [f for f in faults if f.cause == "overflow"]
    others = [f for f in faults if f.cause != "overflow"]
    if not infinite:
        return others
    tensors = [stored for f in infinite for stored in f.tensors]
    return [*others, Fault("overflow", tensors, detail={"elements": sum(f.detail["elements"] for f in infinite)})]


def _judged(plan: Plan, tally: Tally, pool: ThreadPoolExecutor) -> list[Fault]:
    # What PEFT merges anew for every look at it must not be looked at twice at once.
    faults = causes.classify(tally.modules, map if plan.slow else pool.map)
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
    for fault in faults:
        # Another adapter may have other targets, and a quantized base has more than the adapted weights: the same cause.
        same = _SAME_CAUSE.get(fault.cause)
        if same is not None and all(_fits(same, stored, plan) for stored in changed):
            fault.tensors += changed
            return faults
    return [*faults, Fault("weights-changed", changed, detail=detail)]


_BY_ANOTHER_BASE = frozenset({"unexplained", "other-adapter", "wrong-scale", "partly-merged", "not-merged"})


def _low_rank(base: torch.Tensor, merged: torch.Tensor) -> bool:
    return suspects.low_rank(base, merged, (len(base), base[0].numel()))


def _requantized(base: torch.Tensor, merged: torch.Tensor) -> bool:
    return requantized.format_of_base(base, merged) is not None


_SAME_CAUSE: dict[str, Callable[[torch.Tensor, torch.Tensor], bool]] = {"other-adapter": _low_rank, "quantized-base": _requantized}


def _fits(test: Callable[[torch.Tensor, torch.Tensor], bool], stored: str, plan: Plan) -> bool:
    name = next((n for n, mine in plan.untouched if plan.theirs.shown(n) == stored), None)
    mine = plan.base(name) if name is not None else None
    if name is None or mine is None:
        return False
    base, merged = plan.ours.read(mine), plan.theirs.read(name)
    return base.dim() > 1 and base.shape == merged.shape and test(base, merged)


def _failed(faults: Sequence[Fault], found: directories.Merged) -> dict[str, Any]:
    return {"status": "failed", "reason": "", "faults": [_as_json(f, found) for f in faults]}


def _result(faults: list[Fault], tally: Tally, plan: Plan, found: directories.Merged) -> dict[str, Any]:
    sums = [m.sums for m in tally.modules]
    size, update, across = sum(s.size for s in sums), sum(s.update for s in sums), sum(s.across for s in sums)
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
    files = [str(Path(found.part, found.weights.file_of(name).name)) if name in found.weights else None for name in shown]
    record = {key: value for key, value in asdict(fault).items() if key != "tensors"}
    record = {key: _number(value) for key, value in record.items()}
    record["detail"] = {key: _number(value) for key, value in fault.detail.items()}
    return {**record, "count": len(fault.tensors), "examples": shown, "files": files}


def _number(value: Any) -> Any:
    # JSON has neither infinity nor NaN.
    return None if isinstance(value, float) and not math.isfinite(value) else value
