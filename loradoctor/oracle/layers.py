"""Merged against unmerged for PEFT layers that hold real weights: exact algebra first, then what storage makes of it.

Used by the child process on one module of the base at a time, and by ``loradoctor.merge.live`` on layers of a model in memory.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

ALGEBRA = 1e-12
"""relative difference of outputs in float64 that rounding can explain; a real disagreement is many orders above"""

SINGLE = 2e-5
"""the same for methods that compute in float32 whatever they are given"""

# Found by running every method in float64 under peft 0.17.1 and 0.21.2: these cast inside, the others differ by 1e-15.
SINGLE_PRECISION = frozenset({"ADAMSS", "C3A", "DEFT"})

CHUNK = 2**18
"""elements compared at a time: no temporary is as large as a layer, and 2 MB of float64 stay in the cache"""


@dataclass
class Merge:
    """One module. ``difference`` is relative to the output, ``effect`` and ``lost`` are norms relative to weight and update."""

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
    overflow: int = 0
    shared_with: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain data for the wire."""
        return asdict(self)


class CannotProbe(Exception):
    """There is no input that this kind of layer takes alone; the message says which kind."""


def examine(layers: Mapping[str, nn.Module], bystanders: Sequence[str] = ()) -> list[Merge]:
    """Compare merged with unmerged for layers that share weights (usually a single layer).

    ``layers`` are PEFT layers by name, on the CPU with their weights; they are copied, never changed. ``bystanders`` are modules
    without an adapter that use the same weight: merging changes them too.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            probes = {name: probe(layer) for name, layer in layers.items()}
        except CannotProbe as reason:
            return [Merge(name, "not-run", str(reason)) for name in layers]
        exact = copies(layers, torch.float64)
        before = {name: exact[name](*probes[name]) for name in layers}
        for name, layer in exact.items():
            try:
                layer.merge()
            except (NotImplementedError, RuntimeError, ValueError, AttributeError, TypeError) as error:
                return [_refusal(n, error, named=n == name) for n in layers]
        results = []
        for name, layer in exact.items():
            result = Merge(name, "equal", dtype=_dtype_name(layers[name]), shared_with=_others(name, layers, bystanders))
            _compare(result, before[name], layer(*probes[name]), method(layers[name]))
            if bystanders and result.status == "equal":
                result.status = "shared"
            results.append(result)
        _storage(results, layers, exact)
        _release(exact)
        for result in results:
            if result.status == "shared":
                # What merging does to the module without adapter: its weight moves by the whole update.
                result.difference = result.effect
                result.status = "shared" if result.update else "equal"
        return results


def probe(layer: nn.Module) -> tuple[torch.Tensor, ...]:
    """An input in float64 (or token ids) that exercises every row of the layer. Raises :class:`CannotProbe`."""
    base = base_of(layer)
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> tuple[torch.Tensor, ...]:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64),)

    if isinstance(base, nn.Embedding):
        count = min(base.num_embeddings, 2048)
        ids = torch.randperm(base.num_embeddings, generator=generator)[:count]
        touched = [i for indices in getattr(layer, "token_indices", {}).values() for i in indices]
        return (torch.cat([ids, torch.tensor(touched, dtype=ids.dtype)])[None],)
    if isinstance(base, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        sizes = [d * (k - 1) + 1 + 2 * s for k, d, s in zip(base.kernel_size, base.dilation, base.stride, strict=True)]
        return noise(2, base.in_channels, *sizes)
    if isinstance(base, nn.MultiheadAttention):
        raise CannotProbe("an attention module is adapted as a whole; its parts cannot be merged one at a time")
    if isinstance(base, nn.Linear):
        return noise(4, base.in_features)
    weight = getattr(base, "weight", None)
    if type(layer).__name__ == "ParamWrapper" or not isinstance(weight, torch.Tensor):
        raise CannotProbe(f"`{type(base).__name__}` holds several weights; it cannot be run alone")
    if weight.dim() == 1 or type(base).__name__ == "Conv1D":
        return noise(4, weight.shape[0])
    raise CannotProbe(f"there is no known input for a layer of class `{type(base).__name__}`")


def base_of(layer: nn.Module) -> nn.Module:
    """The module of the base model that ``layer`` adapts."""
    base = layer.get_base_layer()
    assert isinstance(base, nn.Module)  # noqa: S101 -- PEFT's own promise
    return base


def method(layer: nn.Module) -> str:
    """PEFT's name of the method, from the package that defines the layer: ``LORA``, ``OFT`` ..."""
    parts = type(layer).__module__.split(".")
    return parts[parts.index("tuners") + 1].upper() if "tuners" in parts else ""


def merges(layer: nn.Module) -> bool:
    """Whether layers of this class merge at all."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(layer, BaseTunerLayer) and type(layer).merge is not BaseTunerLayer.merge


def half_ulp(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Half the distance between neighbours of ``dtype`` at float32 ``values``: what one rounding may cost, elementwise."""
    info = torch.finfo(dtype)
    # The exponent bits alone are the power of two below the value, five times faster than frexp and ldexp.
    power = (values.contiguous().view(torch.int32) & 0x7F800000).view(torch.float32)
    return (power * (info.eps / 2)).clamp_min(info.tiny * info.eps / 2)


def copies(layers: Mapping[str, nn.Module], dtype: torch.dtype | None) -> dict[str, nn.Module]:
    """Copies on the CPU for evaluation, in ``dtype`` unless it is None."""
    # One deepcopy call, so that what the layers share is shared by the copies.
    made = copy.deepcopy(dict(layers))
    for layer in made.values():
        layer.eval()
        layer.to("cpu", dtype)
        for parameter in layer.parameters():
            parameter.requires_grad_(requires_grad=False)
    return made


def _release(merged: Mapping[str, nn.Module]) -> None:
    # PEFT layers are reference cycles: without this their weights would wait for the garbage collector, gigabytes of them.
    for layer in merged.values():
        for parameter in layer.parameters():
            parameter.data = parameter.data.new_empty(0)


def _weight(layer: nn.Module) -> torch.Tensor:
    weight = base_of(layer).weight
    assert isinstance(weight, torch.Tensor)  # noqa: S101 -- probe() has refused layers without
    return weight.data


def _dtype_name(layer: nn.Module) -> str:
    return str(_weight(layer).dtype).removeprefix("torch.")


def _others(name: str, layers: Mapping[str, nn.Module], bystanders: Sequence[str]) -> tuple[str, ...]:
    return (*(other for other in layers if other != name), *bystanders)


def _refusal(name: str, error: BaseException, *, named: bool) -> Merge:
    text = str(error).strip().split("\n")[0]
    status = "unmergeable" if isinstance(error, NotImplementedError) else "refused"
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return Merge(name, status, reason if named else f"it shares its weight with a module that refuses: {reason}")


def _compare(result: Merge, unmerged: torch.Tensor, merged: torch.Tensor, peft_type: str) -> None:
    scale = float(unmerged.abs().max())
    result.difference = float((merged - unmerged).abs().max()) / scale if scale else float((merged - unmerged).abs().max())
    result.bound = SINGLE if peft_type in SINGLE_PRECISION else ALGEBRA
    if not math.isfinite(result.difference):
        result.status, result.difference = "not-finite", None
    elif result.difference > result.bound:
        result.status = "different"


def _storage(
    results: Sequence[Merge],
    layers: Mapping[str, nn.Module],
    exact: Mapping[str, nn.Module],
) -> None:
    # What a user gets: PEFT's merge in the dtype of the base, against the same merge in float64.
    stored = copies(layers, None)
    slack = {name: _slack(layer) for name, layer in stored.items()}
    for layer in stored.values():
        layer.merge()
    merged = {name: _weight(layer) for name, layer in stored.items()}
    _release(stored)
    for result in results:
        name = result.module
        target, found, original = _weight(exact[name]), merged[name], _weight(layers[name])
        if target.shape != found.shape or not found.dtype.is_floating_point:
            continue
        lost = update = size = worst = 0.0
        rows = max(1, CHUNK // max(1, target[0].numel()))
        for start in range(0, target.shape[0], rows):
            part = slice(start, start + rows)
            t, m, w = (x[part].to(torch.float64) for x in (target, found, original))
            error = m - t
            if not math.isfinite(float(m.sum())):
                overflow = torch.isfinite(t) & ~torch.isfinite(m)
                result.overflow += int(overflow.sum())
                error[overflow] = 0.0
            lost += float(error.square().sum())
            update += float((t - w).square().sum())
            size += float(w.square().sum())
            extra = slack[name]
            allowed = _allowed(t, w, found.dtype, extra(part) if extra is not None else None)
            worst = max(worst, float((error.abs().float() / allowed).max()))
        result.rounding = worst
        result.update = math.sqrt(update)
        result.effect = math.sqrt(update / size) if size else (math.inf if update else 0.0)
        if update > 0 and math.isfinite(update):
            result.lost = math.sqrt(lost / update)


def _allowed(
    target: torch.Tensor, original: torch.Tensor, dtype: torch.dtype, slack: torch.Tensor | None
) -> torch.Tensor:
    # |M - T| <= ½ulp(T) + (r + 2) 2^-24 s |B||A| for one rounding of a float32 sum; methods that round the update first, or
    # compute in the dtype of the base, pay for the update and for the largest operand as well.
    target, original = target.float(), original.float()
    once = half_ulp(target, dtype) + 2.0**-23 * (target.abs() + original.abs())
    if slack is not None:
        return once + slack
    update = target - original
    largest = torch.maximum(torch.maximum(original.abs(), update.abs()), target.abs())
    scale = original.abs().amax() + update.abs().amax()
    return once + half_ulp(update, dtype) + 2 * half_ulp(largest, dtype) + 2.0**-18 * scale


def _slack(layer: nn.Module) -> Callable[[slice], torch.Tensor] | None:
    # (r + 2) 2^-24 s |B||A| of a plain float32 LoRA on one linear layer, for some rows of the base's weight as it is stored.
    names = getattr(layer, "active_adapters", [])
    if method(layer) != "LORA" or len(names) != 1 or names[0] not in getattr(layer, "lora_A", {}):
        return None
    name = names[0]
    a, b = layer.lora_A[name].weight.data.abs(), layer.lora_B[name].weight.data.abs()
    if a.dim() != 2 or a.dtype != torch.float32 or b.dtype != torch.float32:
        return None
    if name in getattr(layer, "lora_variant", {}) or getattr(layer, "use_dora", {}).get(name):
        return None
    factor = abs(float(layer.scaling[name])) * (a.shape[0] + 2) * 2.0**-24
    shape = _weight(layer).shape
    if getattr(layer, "fan_in_fan_out", False):
        return (lambda rows: (a[:, rows].T @ b.T) * factor) if shape == (a.shape[1], b.shape[0]) else None
    return (lambda rows: (b[rows] @ a) * factor) if shape == (b.shape[0], a.shape[1]) else None
