"""The exact singular values of a low-rank product BA, from r x r matrices: BA itself is never formed."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from loradoctor.checkpoint.values.bits import Bits

T = TypeVar("T")

NEGLIGIBLE = 1e-6
"""Singular values below this share of the largest are rounding, not content: the Gram matrices leave about 1e-8 in double precision."""
_BATCH = 1 << 22
"""Bytes of cores that wait for one call of LAPACK: enough to spread its cost, little beside everything else."""


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """The update ΔW of one module (or of one of its experts): its singular values, descending, scaling included.

    ``rank`` is the adapter's, ``shape`` ΔW's as (out, in). There are min(rank, out, in) values. A module without effect has only zeros.
    """

    module: str
    expert: int | None
    rank: int
    shape: tuple[int, int]
    values: Bits

    @property
    def norm(self) -> float:
        """The Frobenius norm of ΔW."""
        return math.sqrt(float(self.values @ self.values))

    @property
    def largest(self) -> float:
        """The spectral norm of ΔW: no element is larger."""
        return float(self.values[0])

    @property
    def dominance(self) -> float:
        """The share of the squared norm in the first direction (the reciprocal of the stable rank); 0 for a zero update."""
        norm = self.norm
        return (self.largest / norm) ** 2 if norm else 0.0

    @property
    def effective_rank(self) -> float:
        """How many directions the update amounts to; 0 for a zero update.

        The exponential of the entropy of the singular values over their sum (Roy and Vetterli, "The effective rank", EUSIPCO 2007).
        """
        total = float(self.values.sum())
        shares = [s for v in self.values if (s := float(v) / total) > 0] if total else []
        return math.exp(-sum(s * math.log(s) for s in shares)) if shares else 0.0

    @property
    def directions(self) -> int:
        """How many singular values are more than rounding."""
        return int((self.values > NEGLIGIBLE * self.largest).sum())


def singular_values(left: Bits, right: Bits) -> Bits:
    """(n, r): the singular values of BA, descending, from ``left`` = BᵀB and ``right`` = AAᵀ, each (n, r, r) in double precision.

    With BᵀB = PᵀP and AAᵀ = QᵀQ, BA has the singular values of PQᵀ (both orthonormal outer parts drop out). Only the roots are taken of
    squared matrices, never of the product, so values down to about 1e-8·‖A‖‖B‖ are content. Infinite where BA is beyond double precision.
    """
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        product = _root(left) @ _root(right).transpose(0, 2, 1)
    usable = np.isfinite(product).all(axis=(1, 2))
    values: Bits = np.linalg.svd(np.where(usable[:, None, None], product, 0.0), compute_uv=False)
    values[~usable] = np.inf
    return values


def _root(squares: Bits) -> Bits:
    """R with RᵀR the given positive semidefinite matrices.

    Rows and columns are first brought to length one: directions that are small only because they are scaled so lose no digits.
    """
    import numpy as np

    lengths = np.sqrt(np.maximum(np.diagonal(squares, axis1=1, axis2=2), 0.0))
    lengths = np.where(lengths > 0, lengths, 1.0)
    squares = squares / lengths[:, :, None] / lengths[:, None, :]
    try:
        root: Bits = np.linalg.cholesky(squares).transpose(0, 2, 1)
    except np.linalg.LinAlgError:  # dependent or zero directions: several times slower, but never fails
        values, vectors = np.linalg.eigh(squares)
        root = np.sqrt(np.maximum(values, 0.0))[:, :, None] * vectors.transpose(0, 2, 1)
    return root * lengths[:, None, :]


class Cores(Generic[T]):
    """Collects pairs of r x r matrices and hands back the singular values of many at once; what waits is bounded in size."""

    def __init__(self) -> None:
        self._waiting: defaultdict[int, list[tuple[T, Bits, Bits]]] = defaultdict(list)

    def add(self, item: T, left: Bits, right: Bits) -> list[tuple[T, Bits]]:
        """Take one pair (r, r) in; give what became due, with its values."""
        rank = len(left)
        waiting = self._waiting[rank]
        waiting.append((item, left, right))
        return self._solve(rank) if len(waiting) * 16 * rank * rank >= _BATCH else []

    def rest(self) -> list[tuple[T, Bits]]:
        """Everything still waiting."""
        return [found for rank in list(self._waiting) for found in self._solve(rank)]

    def _solve(self, rank: int) -> list[tuple[T, Bits]]:
        import numpy as np

        batch = self._waiting.pop(rank)
        values = singular_values(np.stack([left for _, left, _ in batch]), np.stack([right for _, _, right in batch]))
        return [(item, found) for (item, _, _), found in zip(batch, values, strict=True)]
