"""A tensor that no adapter touches, in the base and in the merged model: the same, cast, resized, or another one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .compare import CHUNK, same_bytes

VIA = (torch.float32, torch.float16, torch.bfloat16)
"""the dtypes that a model may have passed through on its way"""


@dataclass(frozen=True)
class Kept:
    """``how``: ``same``, ``cast``, ``transposed``, ``resized`` (the rows of both are equal), ``shape`` or ``changed``.

    ``via`` is the dtype that the values were rounded to, None when nothing was. ``elements`` differ, by ``relative`` of the norm;
    ``overflow`` of them became infinite in a cast.
    """

    how: str
    via: torch.dtype | None = None
    elements: int = 0
    relative: float = 0.0
    overflow: int = 0


def compare(base: torch.Tensor, merged: torch.Tensor, *, vocabulary: bool) -> Kept:
    """How ``merged`` came from ``base``. ``vocabulary``: the rows are tokens, so that there may be more or fewer of them."""
    if base.shape == merged.shape:
        return _values(base, merged)
    if vocabulary and base.dim() == merged.dim() and base.shape[1:] == merged.shape[1:]:
        rows = min(len(base), len(merged))
        kept = _values(base[:rows], merged[:rows])
        return kept if kept.how == "changed" else Kept("resized", kept.via, overflow=kept.overflow)
    if base.dim() == 2 and base.shape == merged.shape[::-1]:
        kept = _values(base.T.contiguous(), merged)
        return kept if kept.how == "changed" else Kept("transposed", kept.via, overflow=kept.overflow)
    if base.numel() == merged.numel() == 1:
        return _values(base.reshape(1), merged.reshape(1))
    return Kept("shape")


def _values(base: torch.Tensor, merged: torch.Tensor) -> Kept:
    if base.dtype == merged.dtype and same_bytes(base, merged):
        return Kept("same")
    base, merged = base.reshape(-1), merged.reshape(-1)
    floats = base.dtype.is_floating_point and merged.dtype.is_floating_point
    ways: list[torch.dtype | None] = [None, *(VIA if floats else ())]
    overflow = 0
    for start in range(0, base.numel(), CHUNK):
        original, found = base[start : start + CHUNK], merged[start : start + CHUNK]
        ways = [way for way in ways if _equal(_through(original, way, merged.dtype), found)]
        if not ways:
            return _difference(base, merged)
        if merged.dtype == torch.float16 and base.dtype != torch.float16:
            overflow += int(torch.count_nonzero(torch.isinf(found) & torch.isfinite(original)))
    if base.dtype == merged.dtype and ways[0] is None:
        return Kept("same")  # the bits of a zero or of a NaN differ, the values do not
    return Kept("cast", ways[0] or merged.dtype, overflow=overflow)


def _through(values: torch.Tensor, way: torch.dtype | None, dtype: torch.dtype) -> torch.Tensor:
    return (values if way is None else values.to(way)).to(dtype)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())


def _difference(base: torch.Tensor, merged: torch.Tensor) -> Kept:
    count, moved, size = 0, 0.0, 0.0
    for start in range(0, base.numel(), CHUNK):
        original, found = (t[start : start + CHUNK].to(torch.float64) for t in (base, merged))
        count += int(torch.count_nonzero(original.to(merged.dtype) != found.to(merged.dtype)))
        moved += float(torch.nan_to_num(found - original).square().sum())
        size += float(torch.nan_to_num(original).square().sum())
    return Kept("changed", elements=count, relative=math.sqrt(moved / size) if size else math.inf)
