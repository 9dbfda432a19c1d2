"""What one pass over the pieces of a tensor says: counts, scale, and the products of its rows or columns with one another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loradoctor.checkpoint.values.bits import EXPONENT, SMALLEST_NORMAL, Scratch, doubled, finite, table, tiny, values
from loradoctor.checkpoint.values.reading import Factor

if TYPE_CHECKING:
    from loradoctor.checkpoint.values.bits import Bits


@dataclass(frozen=True, slots=True)
class TensorStats:
    """What the bytes of one tensor say. ``absmax`` and ``rms`` are over the finite values; ``constant`` means all equal.

    ``subnormals`` are the values that are not zero but below the smallest normal number of the dtype: they have fewer bits.
    """

    count: int
    nans: int
    infs: int
    zeros: int
    subnormals: int
    absmax: float
    rms: float
    constant: bool

    @property
    def is_zero(self) -> bool:
        """Whether every element is zero (an empty tensor has none)."""
        return self.count > 0 and self.zeros == self.count

    @property
    def is_finite(self) -> bool:
        """Whether there is neither NaN nor infinity."""
        return self.nans == 0 and self.infs == 0


class Tally:
    """Adds up the pieces of one tensor; with a ``factor`` also its Gram matrices, in double precision."""

    def __init__(self, dtype: str, scratch: Scratch, factor: Factor | None = None) -> None:
        self._dtype, self._scratch, self._factor = dtype, scratch, factor
        self._count = self._nans = self._infs = self._zeros = self._subnormals = 0
        self._absmax = self._squares = 0.0
        self._first: int | None = None
        self._constant = True
        self._gram: Bits | None = None

    def add(self, pieces: Iterable[Bits], expert: int = 0) -> None:
        """Every piece, as :func:`~loradoctor.checkpoint.values.reading.pieces` gives them; rows of a factor are one ``expert``'s."""
        for bits in pieces:
            flat = bits.reshape(-1)
            self._compare(flat)
            numbers = self._look(flat)
            self._count += flat.size
            if self._multiplied:
                self._multiply(doubled(numbers, self._scratch).reshape(bits.shape), expert)

    @property
    def _multiplied(self) -> bool:
        """Whether the next piece still goes into the Gram matrices, whose diagonals hold its squares."""
        return self._factor is not None and not self._nans and not self._infs

    def stats(self) -> TensorStats:
        """The statistics of everything added."""
        left = self._count - self._nans - self._infs
        squares = self._squares + (float(self._gram.trace(axis1=1, axis2=2).sum()) if self._gram is not None else 0.0)
        return TensorStats(
            count=self._count,
            nans=self._nans,
            infs=self._infs,
            zeros=self._zeros,
            subnormals=self._subnormals,
            absmax=self._absmax,
            rms=(squares / left) ** 0.5 if left else 0.0,
            constant=self._constant and self._count > 1,
        )

    def gram(self) -> Bits | None:
        """(experts, rank, rank): the products of the factor's rows (or columns); None without factor or where they are not finite."""
        import numpy as np

        usable = self._gram is not None and not self._nans and not self._infs and bool(np.isfinite(self._gram).all())
        return self._gram if usable else None

    def _compare(self, flat: Bits) -> None:
        first = int(flat[0])
        if self._first is None:
            self._first = first
        # Random values practically never end as they begin: the comparison of all costs nothing then.
        self._constant = self._constant and self._first == first == int(flat[-1]) and bool((flat == flat[0]).all())

    def _look(self, flat: Bits) -> Bits:
        """Count one piece and hand back its numbers."""
        import numpy as np

        if flat.itemsize == 1:
            return self._narrow(flat)
        if self._dtype not in EXPONENT:
            whole = values(self._dtype, flat)
            self._zeros += whole.size - int(np.count_nonzero(whole))
            self._absmax = max(self._absmax, float(np.abs(whole).max()))
            return whole if self._multiplied else self._square(whole)
        bottom, top = _extremes(flat)
        if bottom < SMALLEST_NORMAL[self._dtype]:
            self._faint(flat)
        if top < EXPONENT[self._dtype]:
            # Without their sign the bit patterns of finite floats are ordered as the values are.
            self._absmax = max(self._absmax, float(values(self._dtype, np.array([top], flat.dtype))[0]))
            numbers = finite(self._dtype, flat, self._scratch)
            return numbers if self._multiplied else self._square(numbers)
        with np.errstate(invalid="ignore"):  # a signalling NaN complains when it is cast
            numbers = values(self._dtype, flat).astype(np.float64)
        self._nans += int(np.isnan(numbers).sum())
        self._infs += int(np.isinf(numbers).sum())
        usable = numbers[np.isfinite(numbers)]
        self._absmax = max(self._absmax, float(np.abs(usable).max(initial=0.0)))
        return self._square(usable)

    def _faint(self, flat: Bits) -> None:
        import numpy as np

        magnitudes = flat & flat.dtype.type((1 << (8 * flat.itemsize - 1)) - 1)
        zeros = flat.size - int(np.count_nonzero(magnitudes))
        self._zeros += zeros
        self._subnormals += int(np.count_nonzero(magnitudes < SMALLEST_NORMAL[self._dtype])) - zeros

    def _narrow(self, flat: Bits) -> Bits:
        """How often each of 256 patterns comes says everything."""
        import numpy as np

        meaning = table(self._dtype)
        seen = np.bincount(flat, minlength=256)
        self._nans += int(seen[np.isnan(meaning)].sum())
        self._infs += int(seen[np.isinf(meaning)].sum())
        present = np.isfinite(meaning) & (seen > 0)
        sizes, times = np.abs(meaning[present]), seen[present]
        self._zeros += int(times[sizes == 0].sum())
        self._subnormals += int(times[(sizes > 0) & (sizes < tiny(self._dtype))].sum())
        self._absmax = max(self._absmax, float(sizes.max(initial=0.0)))
        if self._multiplied:
            numbers: Bits = meaning[flat]
            return numbers
        self._squares += float(times @ sizes**2)
        return meaning

    def _square(self, numbers: Bits) -> Bits:
        import numpy as np

        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            total = float(np.dot(numbers, numbers))
            if not np.isfinite(total):  # the squares overflow single precision
                wide = numbers.astype(np.float64)
                total = float(np.dot(wide, wide))
        self._squares += total
        return numbers

    def _multiply(self, matrix: Bits, expert: int) -> None:
        import numpy as np

        factor = self._factor or Factor()
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            if not factor.columns:
                product = matrix @ matrix.T
            elif factor.experts == 1:
                product = matrix.T @ matrix
            else:
                taken = matrix.reshape(len(matrix), -1, factor.experts).transpose(2, 1, 0)
                product = taken @ taken.transpose(0, 2, 1)
        if self._gram is None:
            rank = product.shape[-1]
            self._gram = np.zeros((factor.experts, rank, rank))
        self._gram[slice(None) if product.ndim == 3 else expert] += product


def _extremes(flat: Bits) -> tuple[int, int]:
    """The smallest and the largest bit pattern without the sign, found without writing anything.

    Read as signed integers, patterns with the sign set are negative and grow with their magnitude, like those without.
    """
    import numpy as np

    smallest, largest = np.minimum.reduce, np.maximum.reduce  # what `min` and `max` call, several calls later
    signed = flat.view(f"<i{flat.itemsize}")
    mask = (1 << (8 * flat.itemsize - 1)) - 1
    low, high = int(smallest(signed)), int(largest(signed))
    if low >= 0:
        return low, high
    if high < 0:
        return low & mask, high & mask
    return min(low & mask, int(smallest(flat))), max(high, int(largest(flat)) & mask)
