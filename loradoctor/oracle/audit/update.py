"""What an adapter adds to one weight, as a matrix that is never whole in memory when it is low-rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from .compare import Update


@dataclass
class LowRank:
    """``scale`` times ``left`` (rows, r) times ``right`` (r, columns), both float32 and the adapter's own memory where they can be."""

    left: torch.Tensor
    right: torch.Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the product."""
        return self.left.shape[0], self.right.shape[1]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of the product."""
        return (self.left[start:stop] @ self.right).mul_(self.scale)

    def add_to(self, weight: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Add those rows to ``weight`` in one pass over memory."""
        return weight.addmm_(self.left[start:stop], self.right, alpha=self.scale)

    def along(self, rows: torch.Tensor, start: int, stop: int) -> float:
        """⟨rows, left·right⟩ = ⟨rows·rightᵀ, left⟩, without the product."""
        return float(torch.sum((rows @ self.right.T).double() * self.left[start:stop])) * self.scale

    def norm2(self) -> float:
        """‖left·right‖² from the Gram matrices."""
        left, right = self.left.double(), self.right.double()
        return max(0.0, float(torch.sum((left.T @ left) * (right @ right.T)))) * self.scale**2

    def slack(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Cauchy and Schwarz for Σ|left||right|, and r + 2 roundings."""
        left, right = self._norms
        return left[start:stop], right, self.left.shape[1] + 2

    def transposed(self) -> Update:
        """The transposed product."""
        return LowRank(self.right.T, self.left.T, self.scale)

    def times(self, factor: float) -> Update:
        """A multiple of it."""
        return replace(self, scale=self.scale * factor)

    def alone(self) -> Update:
        """Itself: a product does not know the weight."""
        return self

    def first(self, rows: int) -> LowRank:
        """The update of the first ``rows`` rows."""
        return replace(self, left=self.left[:rows])

    @cached_property
    def _norms(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.left.norm(dim=1) * abs(self.scale), self.right.norm(dim=0)


@dataclass
class Dense:
    """An update that PEFT has computed, ``delta`` (rows, columns), with the ``target`` it was taken from, if it is of this weight."""

    delta: torch.Tensor
    target: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.delta.shape[0], self.delta.shape[1]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows in float32."""
        return self.delta[start:stop].to(torch.float32)

    def add_to(self, weight: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Make ``weight`` PEFT's exact merge, whatever it was; without a target, add to it."""
        return weight.add_(self.rows(start, stop)) if self.target is None else weight.copy_(self.target[start:stop])

    def along(self, rows: torch.Tensor, start: int, stop: int) -> float:
        """The inner product with these rows."""
        return float(torch.dot(rows.reshape(-1), self.rows(start, stop).reshape(-1)))

    def norm2(self) -> float:
        """The squared norm, in pieces."""
        return sum(float(part.double().square().sum()) for part in self.delta.split(256))

    def slack(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Methods that are no plain product compute in float32 over the whole weight: 2⁻¹⁸ of its scale."""
        scale = float(self.delta.abs().max()) + (float(self.target.abs().max()) if self.target is not None else 0.0)
        return torch.full((stop - start,), scale), torch.ones(self.shape[1]), 64.0

    def transposed(self) -> Update:
        """The transposed update."""
        return Dense(self.delta.T.contiguous())

    def times(self, factor: float) -> Update:
        """A multiple of it."""
        return Dense(self.delta * factor)

    def alone(self) -> Update:
        """Without the weight that it was computed for."""
        return Dense(self.delta)


@dataclass
class Computed:
    """An update that is computed anew whenever it is wanted and not at hand: only the last one is kept."""

    shape: tuple[int, int]
    make: Callable[[], Dense]
    at_hand: list[tuple[Computed, Dense]] = field(repr=False)
    """shared by all of them"""

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """As :meth:`Dense.rows`."""
        return self._dense.rows(start, stop)

    def add_to(self, weight: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """As :meth:`Dense.add_to`."""
        return self._dense.add_to(weight, start, stop)

    def along(self, rows: torch.Tensor, start: int, stop: int) -> float:
        """As :meth:`Dense.along`."""
        return self._dense.along(rows, start, stop)

    def norm2(self) -> float:
        """As :meth:`Dense.norm2`."""
        return self._dense.norm2()

    def slack(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        """As :meth:`Dense.slack`."""
        return self._dense.slack(start, stop)

    def transposed(self) -> Update:
        """The transposed update."""
        return self._dense.transposed()

    def times(self, factor: float) -> Update:
        """A multiple of it."""
        return self._dense.times(factor)

    def alone(self) -> Update:
        """Without the weight that it was computed for."""
        return self._dense.alone()

    @property
    def _dense(self) -> Dense:
        if not self.at_hand or self.at_hand[0][0] is not self:
            self.at_hand.clear()
            self.at_hand.append((self, self.make()))
        return self.at_hand[0][1]
