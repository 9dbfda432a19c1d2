"""What storing a merged weight costs, added up over parts of it: the update lost, the worst error, overflow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

CHUNK = 2**18
"""elements compared at a time: no temporary is as large as a layer, and 2 MB of float64 stay in the cache"""


@dataclass
class Tally:
    """Sums of squares over everything added; ``worst`` is the largest storage error over what rounding may cost.

    ``coarse`` is for methods that multiply matrices in the dtype of the base.
    """

    coarse: bool = False
    lost: float = 0.0
    update: float = 0.0
    size: float = 0.0
    worst: float = 0.0
    largest: float = 0.0
    overflow: int = 0

    def add(self, original: torch.Tensor, target: torch.Tensor, found: torch.Tensor, slack: torch.Tensor | None = None) -> None:
        """Count one part.

        ``original`` is the weight before, ``target`` the exact merge in float64 and ``found`` the merge as it is stored, all of one
        shape. ``slack`` is what computing the update in float32 may cost, elementwise; None for methods that round it to the
        dtype of the base.
        """
        if target.dim() == 0:
            original, target, found = original[None], target[None], found[None]
        rows = max(1, CHUNK // max(1, target[0].numel()))
        for start in range(0, target.shape[0], rows):
            part = slice(start, start + rows)
            self._add(original[part], target[part], found[part], slack[part] if slack is not None else None)

    def _add(self, original: torch.Tensor, target: torch.Tensor, found: torch.Tensor, slack: torch.Tensor | None) -> None:
        before = original.float()
        exact = target.float()
        error = torch.sub(found, target).float()
        # One pass that sees every NaN and infinity: the sum of finite errors is finite.
        if not math.isfinite(float(error.sum())):
            overflow = torch.isfinite(target) & ~torch.isfinite(found)
            self.overflow += int(overflow.sum())
            error[overflow] = 0.0
        self.lost += _square(error)
        self.size += _square(before)
        # In float32 W + Δ - W would be the rounding of the sum.
        self.update += _square(torch.sub(target, original).float())
        error = error.abs_()
        limit = allowed(exact, before, found.dtype, slack)
        if self.coarse:
            limit += torch.finfo(found.dtype).eps * (exact.abs().amax() + before.abs().amax())
        self.worst = max(self.worst, float((error / limit).max()))
        self.largest = max(self.largest, float(exact.abs_().max()))


def _square(values: torch.Tensor) -> float:
    flat = values.reshape(-1)
    return float(torch.dot(flat, flat))


def half_ulp(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Half the distance between neighbours of ``dtype`` at float32 ``values``: what one rounding may cost, elementwise."""
    info = torch.finfo(dtype)
    # The exponent bits alone are the power of two below the value, five times faster than frexp and ldexp.
    power = (values.contiguous().view(torch.int32) & 0x7F800000).view(torch.float32)
    return power.mul_(info.eps / 2).clamp_min_(info.tiny * info.eps / 2)


def allowed(target: torch.Tensor, original: torch.Tensor, dtype: torch.dtype, slack: torch.Tensor | None) -> torch.Tensor:
    """The largest difference between stored and exact merge that the arithmetic explains; all float32, elementwise."""
    # |M - T| <= ½ulp(T) + (r + 2) 2^-24 s |B||A| for one rounding of a float32 sum; methods that round the update first, or
    # compute in the dtype of the base, pay for the update and for the largest operand as well.
    magnitude = target.abs() + original.abs()
    once = half_ulp(target, dtype).add_(magnitude, alpha=2.0**-23)
    if slack is not None:
        return once.add_(slack)
    update = target - original
    largest = torch.maximum(torch.maximum(original.abs(), update.abs()), target.abs())
    scale = original.abs().amax() + update.abs().amax()
    return once + half_ulp(update, dtype) + 2 * half_ulp(largest, dtype) + 2.0**-18 * scale
