"""One adapted weight of a merged model beside the base's, and whether an update explains what became of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch

from .compare import Sums, Update, fold, measure

SAME = 0.005
"""how far the coefficient of a right merge may be from 1; measured 4e-5 in every dtype, and one percent is a wrong scale"""

SPREAD = 6
"""standard deviations that chance may take"""


@dataclass
class Module:
    """A weight that the adapter changes: the tensors of both models (mapped), the update, and what was measured.

    ``rank``, ``alpha``, ``scale`` are those of the layer, ``usual`` the scale without patterns; None for methods that have none.
    """

    name: str
    stored: str
    base: torch.Tensor
    merged: torch.Tensor
    update: Update
    adapter: torch.dtype = torch.float32
    """what the adapter is stored in"""
    via: tuple[torch.dtype, ...] = ()
    """dtypes that the model is known to have passed through"""
    sums: Sums = field(default_factory=Sums)
    rank: int | None = None
    alpha: float | None = None
    scale: float | None = None
    usual: float | None = None
    rslora: bool = False

    def measured(self, update: Update | None = None) -> Module:
        """The same weight with the numbers for its own update, or for another one."""
        update = update or self.update
        return replace(self, update=update, sums=measure(self.base, self.merged, update, self.adapter, self.via))

    def stored_as(self, values: torch.Tensor) -> torch.Tensor:
        """float32 ``values`` after they have been through the dtypes on the way and the merged model's."""
        for dtype in (*self.via, self.merged.dtype):
            values = values.to(dtype)
        return values.to(torch.float32)


def right(module: Module) -> bool:
    """Whether every element is within rounding of base plus update, and the whole says that nothing else was added."""
    sums = module.sums
    if sums.overflow or (sums.beyond and not _imprecise(sums)):
        return False
    if sums.coefficient is None or abs(sums.coefficient - 1) <= _tolerance(sums):
        return True
    # Rounding is not fair to an update of less than half a step: what it does to the right one is what to expect.
    return abs(sums.coefficient - expected(module)) <= _tolerance(sums)


def _imprecise(sums: Sums) -> bool:
    # TF32 is off by a little everywhere; damage is off by much, or somewhere.
    return sums.far == 0 and sums.beyond > 0.01 * sums.elements and sums.lost < 2.0**-8


def _tolerance(sums: Sums) -> float:
    return SAME + SPREAD * min(sums.lost, 1.0) / math.sqrt(max(1, sums.elements))


def expected(module: Module) -> float:
    """The coefficient of the right merge after rounding."""
    total = 0.0

    def visit(base: torch.Tensor, _merged: torch.Tensor, start: int, stop: int) -> None:
        nonlocal total
        target = module.update.add_to(base, start, stop)
        total += module.update.along(module.stored_as(target) - target, start, stop)

    fold(module.base, module.merged, module.update.shape, visit)
    return 1 + total / module.sums.update
