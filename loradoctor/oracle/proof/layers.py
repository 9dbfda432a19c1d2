"""Merged against unmerged for PEFT layers that hold real weights: exact algebra first, then what storage makes of it.

Used by the child process on one module of the base at a time, and by ``loradoctor.merge.live`` on layers of a model in memory.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from ..model.anatomy import Refused, base_of, base_parameters, copies, merge, merges, method, unloaded
from . import experts
from .inputs import CannotProbe, probe
from .parts import Copy, Cut, cut, token_ids
from .quantized import Format
from .tally import Tally, half_ulp

__all__ = ["CannotProbe", "Merge", "base_of", "base_parameters", "copies", "examine", "half_ulp", "merges", "method", "probe", "unloaded"]

ALGEBRA = 1e-12
"""relative difference of outputs in float64 that rounding can explain; a real disagreement is many orders above"""

SINGLE = 2e-5
"""the same for methods that compute in float32 whatever they are given"""

# Found by running every method in float64 under peft 0.17.1 and 0.21.2: these cast inside, the others differ by 1e-15.
SINGLE_PRECISION = frozenset({"ADAMSS", "C3A", "DEFT"})

# peft/tuners/frod/layer.py, get_delta_weight: three products in the dtype of the base.
COARSE = frozenset({"FROD"})

@dataclass
class Merge:
    """One module. ``difference`` is relative to the output, ``effect`` and ``lost`` are norms relative to weight and update.

    ``largest`` is the largest magnitude of a merged weight.
    """

    module: str
    status: str
    reason: str = ""
    dtype: str = ""
    difference: float | None = None
    bound: float | None = None
    effect: float | None = None
    update: float | None = None
    lost: float | None = None
    rounding: float | None = None
    largest: float | None = None
    overflow: int = 0
    shared_with: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain data for the wire."""
        return asdict(self)


@dataclass
class Outputs:
    """How far outputs of the merged layer are from those of the layer with its adapter, over all that were compared."""

    apart: float = 0.0
    scale: float = 0.0

    def compare(self, unmerged: torch.Tensor, merged: torch.Tensor) -> None:
        """Count two outputs for the same inputs."""
        if unmerged.numel():
            self.apart = _larger(self.apart, float((merged - unmerged).abs().max()))
            self.scale = _larger(self.scale, float(unmerged.abs().max()))

    def judge(self, result: Merge, peft_type: str) -> None:
        """Write the verdict into ``result``."""
        result.difference = self.apart / self.scale if self.scale else self.apart
        result.bound = SINGLE if peft_type in SINGLE_PRECISION else ALGEBRA
        if not math.isfinite(result.difference):
            result.status, result.difference = "not-finite", None
        elif result.difference > result.bound:
            result.status = "different"


def examine(
    layers: Mapping[str, nn.Module],
    bystanders: Sequence[str] = (),
    device: torch.device | str = "cpu",
    kept: Format | None = None,
    sources: Mapping[str, experts.Source] | None = None,
) -> list[Merge]:
    """Compare merged with unmerged for layers that share weights (usually a single layer).

    ``layers`` are PEFT layers by name, with their weights; they are copied to ``device``, in parts where the method allows, and
    never changed. ``bystanders`` are modules without an adapter that use the same weight: merging changes them too. ``kept`` is the
    format that the weight goes back to after merging, when its values here are those of a quantized one. ``sources`` read the
    adapted parameters of a layer that has no weights, by their names in the module.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            results = list(_examine(layers, device, kept, sources or {}))
        except CannotProbe as reason:
            return [Merge(name, "not-run", str(reason)) for name in layers]
        for result in results:
            result.shared_with = (*(n for n in layers if n != result.module and len(layers) > 1), *bystanders)
            if bystanders and result.status == "equal" and result.update:
                # What merging does to the module without adapter: its weight moves by the whole update.
                result.status, result.difference = "shared", result.effect
        return results


def _examine(
    layers: Mapping[str, nn.Module], device: torch.device | str, kept: Format | None, sources: Mapping[str, experts.Source]
) -> Iterable[Merge]:
    if len(layers) == 1:
        [(name, layer)] = layers.items()
        try:
            if experts.is_wrapper(layer):
                inside = reversed(experts.wrappers(layer))
                return [_by_experts(name, w, sources.get(w.parameter_name, experts.whole(w)), device) for w in inside]
            if rows := cut(layer, multiple=kept.rows if kept else 1):
                return [_by_rows(name, rows, device, kept)]
        except Refused as why:
            return [_refusal(name, why, named=True)]
    return _whole(layers, device, kept)


def _by_rows(name: str, cut: Cut, device: torch.device | str, kept: Format | None) -> Merge:
    exact, stored = Copy(cut, torch.float64, device), Copy(cut, None, device)
    vectors = () if cut.kind == "embedding" else probe(cut.layer, device)
    outputs, tally = Outputs(), Tally()
    for rows in cut.parts():
        inputs = vectors or (token_ids(cut, rows).to(device)[None],)
        exact.take(rows)
        unmerged = exact.layer(*inputs)
        merge(exact.layer)
        outputs.compare(unmerged, base_of(exact.layer)(*inputs))
        stored.take(rows)
        merge(stored.layer)
        original = cut.of(cut.weight, rows).to(device)
        slack = cut.slack(rows)
        found = kept.requantised(stored.weight) if kept and cut.kind == "linear" else stored.weight
        tally.add(original, exact.weight, found, slack.to(device) if slack is not None else None)
        if cut.trains_bias:
            tally.add(base_of(cut.layer).bias.data[rows].to(device), exact.bias, stored.bias)
    result = Merge(name, "equal", dtype=kept.name if kept else _name(cut.weight.dtype))
    outputs.judge(result, "LORA")
    return _counted(result, tally, bounded=kept is None)


def _by_experts(name: str, wrapper: Any, source: experts.Source, device: torch.device | str) -> Merge:
    exact, stored = (experts.ExpertCopy(wrapper, dtype, device) for dtype in (torch.float64, None))
    inputs, dtype = experts.inputs(wrapper, device), experts.parameter(wrapper).dtype
    outputs, tally = Outputs(), Tally()
    for part in experts.parts(wrapper):
        values = source(part)
        dtype = values.dtype
        exact.take(part, values)
        unmerged = exact(inputs)
        merge(exact.layer)
        outputs.compare(unmerged, exact(inputs))
        stored.take(part, values)
        merge(stored.layer)
        tally.add(values.to(device), exact.weight, stored.weight)
    result = Merge(f"{name}.{wrapper.parameter_name}", "equal", dtype=_name(dtype))
    outputs.judge(result, "LORA")
    return _counted(result, tally)


def _whole(layers: Mapping[str, nn.Module], device: torch.device | str, kept: Format | None) -> Iterable[Merge]:
    inputs = {name: probe(layer, device) for name, layer in layers.items()}
    found: dict[str, dict[str, torch.Tensor]] = {}
    modules: dict[str, nn.Module] = {}
    # One copy after the other, each in full before the next: PEFT's merge in the dtype of the base, then the exact one.
    for dtype in (None, torch.float64):
        made = copies(layers, dtype, device)
        unmerged = {name: _first(made[name](*inputs[name])) for name in layers} if dtype else {}
        for name, layer in made.items():
            try:
                modules[name] = unloaded(layer)
            except Refused as why:
                return [_refusal(n, why, named=n == name) for n in layers]
        if dtype is None:
            found = {name: _values(module) for name, module in modules.items()}
    results = []
    for name, layer in layers.items():
        result = Merge(name, "equal", dtype=kept.name if kept else _name(_main(layer).dtype))
        outputs, tally = Outputs(), Tally(coarse=method(layer) in COARSE)
        outputs.compare(unmerged[name], _first(modules[name](*inputs[name])))
        outputs.judge(result, method(layer))
        exact, original = _values(modules[name]), {key: p.data for key, p in base_parameters(layer).items()}
        for key in exact.keys() & original.keys() & found[name].keys():
            before, target, after = original[key].to(device), exact[key], found[name][key]
            if not before.shape == target.shape == after.shape or not before.dtype.is_floating_point or not before.numel():
                continue
            if _left_alone(before, target):
                continue
            tally.add(before, target, kept.requantised(after) if kept and after.dim() == 2 else after)
        results.append(_counted(result, tally, bounded=kept is None))
    _release(modules.values())
    return results


def _left_alone(before: torch.Tensor, after: torch.Tensor) -> bool:
    # A bias that the method does not change is no part of what is merged.
    return before.dim() == 1 and bool(torch.equal(after, before.to(after.dtype)))


def _release(modules: Iterable[nn.Module]) -> None:
    # PEFT layers are reference cycles: without this their weights would wait for the garbage collector, gigabytes of them.
    for module in modules:
        for parameter in module.parameters():
            parameter.data = parameter.data.new_empty(0)


def _counted(result: Merge, tally: Tally, *, bounded: bool = True) -> Merge:
    lost = math.sqrt(tally.lost / tally.update) if tally.update > 0 and math.isfinite(tally.update) else None
    update, size = math.sqrt(tally.update), math.sqrt(tally.size)
    effect = update / size if size else (math.inf if update else 0.0)
    return replace(
        result,
        effect=effect, update=update, lost=lost, rounding=tally.worst if bounded else None, largest=tally.largest, overflow=tally.overflow,
    )  # fmt: skip


def _values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.data for name, parameter in module.named_parameters()}


def _main(layer: nn.Module) -> torch.Tensor:
    return max(base_parameters(layer).values(), key=torch.Tensor.numel)


def _first(output: Any) -> torch.Tensor:
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, torch.Tensor)  # noqa: S101 -- every layer that probe() knows returns one
    return found


def _larger(first: float, second: float) -> float:
    # Unlike max(), NaN wins.
    return second if second > first or math.isnan(second) else first


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _refusal(name: str, why: Refused, *, named: bool) -> Merge:
    status = "unmergeable" if why.by_design else "refused"
    return Merge(name, status, str(why) if named else f"it shares its weight with a module that refuses: {why}")
