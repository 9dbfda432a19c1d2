"""Numbers about one tensor of a merged model, a few rows at a time: how far it is from base plus update, and along what."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from ..proof.layers import half_ulp

CHUNK = 2**18
"""elements at a time. Two float32 temporaries of 1 MB; with fewer, two threads spend their time handing the interpreter's lock over:
0.55 B parameters take 1.5 s with 2¹⁶, 1.0 s with 2¹⁸ and with 2¹⁹"""

ENOUGH = 4
"""chunks of which more than half is wrong that make the rest an estimate"""

FINE = 2.0**-23
"""what a float32 sum may be off by, relative to its operands"""

COARSE = 2.0**-10
"""relative error of a product computed in TF32, as GPUs do when they are allowed to"""


class Update(Protocol):
    """What merging adds to a weight, seen as a matrix of ``shape`` (rows, columns)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` in float32."""

    def add_to(self, weight: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Make the exact merge of ``weight``, float32 rows ``start`` to ``stop`` of the base, in place."""

    def along(self, rows: torch.Tensor, start: int, stop: int) -> float:
        """The inner product of ``rows`` with these rows of the update."""

    def norm2(self) -> float:
        """The squared Frobenius norm."""

    def slack(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        """``u``, ``v``, ``k``: the float32 sum for element (i, j) is within ``k·2⁻²⁴·u[i]·v[j]`` of the exact one."""

    def transposed(self) -> Update:
        """The transposed update."""

    def times(self, factor: float) -> Update:
        """A multiple of it."""

    def alone(self) -> Update:
        """The same for any weight: what a method computes from the weight it merges into is added to another as it is."""


@dataclass
class Sums:
    """Squared norms and inner products of one tensor: W the base, Δ the update, T = W + Δ, M what the merged model has.

    ``size`` ‖W‖², ``update`` ‖Δ‖², ``error`` ‖M-T‖², ``across`` ⟨M-T, Δ⟩. ``beyond`` counts the elements of M that are further
    from T than rounding explains, ``far`` those that TF32 does not explain either (of a weight that is mostly so, its first part
    is counted and the rest extrapolated), ``overflow`` those that became infinite.
    """

    elements: int = 0
    size: float = 0.0
    update: float = 0.0
    error: float = 0.0
    across: float = 0.0
    beyond: int = 0
    far: int = 0
    overflow: int = 0

    @property
    def coefficient(self) -> float | None:
        """ŝ = ⟨M-W, Δ⟩ / ⟨Δ, Δ⟩: 1 for a right merge; None without an update."""
        return 1 + self.across / self.update if self.update > 0 else None

    @property
    def moved(self) -> float:
        """‖M-W‖²."""
        return max(0.0, self.error + 2 * self.across + self.update)

    @property
    def lost(self) -> float:
        """‖M-T‖ / ‖Δ‖: the share of the update that is not there."""
        return math.sqrt(self.error / self.update) if self.update > 0 else (math.inf if self.error else 0.0)

    @property
    def residual(self) -> float:
        """‖M-W-ŝΔ‖ / ‖Δ‖: how much of the change is not along the update."""
        if not self.update > 0:
            return 0.0
        return math.sqrt(max(0.0, self.error - self.across**2 / self.update) / self.update)


def chunks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Row ranges of at most :data:`CHUNK` elements, at least a row each."""
    step = max(1, CHUNK // max(1, columns))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


def measure(
    base: torch.Tensor, merged: torch.Tensor, update: Update, adapter: torch.dtype = torch.float32, via: Iterable[torch.dtype] = ()
) -> Sums:
    """Hold ``merged`` against ``base`` plus ``update``; both tensors may be mapped files and are read once, chunk by chunk.

    ``adapter`` is the dtype that the adapter is stored in, to which PEFT may round the update; ``via`` are dtypes that the model is
    known to have passed through.
    """
    sums = Sums(elements=base.numel())
    rows, columns = update.shape
    base, merged = base.reshape(rows, columns), merged.reshape(rows, columns)
    sums.update = update.norm2()
    step = max(1, CHUNK // max(1, columns))
    # Every pass over a chunk counts: the buffers are made once, and nothing is computed that equality makes needless.
    sum_, error_, rounded_ = torch.empty(step, columns), torch.empty(step, columns), torch.empty(step, columns, dtype=merged.dtype)
    for number, (start, stop) in enumerate(chunks(rows, columns)):
        stored, size = merged[start:stop], stop - start
        target, error, rounded = sum_[:size], error_[:size], rounded_[:size]
        target.copy_(base[start:stop])
        sums.size += float(torch.dot(target.view(-1), target.view(-1)))
        update.add_to(target, start, stop)
        torch.sub(error.copy_(stored), target, out=error)
        sums.error += float(torch.dot(error.view(-1), error.view(-1)))
        sums.across += update.along(error, start, stop)
        if not math.isfinite(sums.error + sums.across):
            _without_infinities(sums, base, merged, update, _Dtypes((merged.dtype, base.dtype, *via), adapter))
            return sums
        if same_bytes(rounded.copy_(target), stored):
            continue
        if number >= ENOUGH and sums.beyond * 2 > start * columns:
            # Another weight altogether: to count on would cost more than all the rest.
            sums.beyond += sums.beyond * size // start
            sums.far += sums.far * size // start
            continue
        wrong = rounded != stored
        count = int(torch.count_nonzero(wrong))
        dtypes = _Dtypes((merged.dtype, base.dtype, *via), adapter)
        chunk = _Chunk(base[start:stop].to(torch.float32), target, error, dtypes, update, start, stop)
        _judge(sums, wrong if count * 8 < wrong.numel() else None, chunk)
    return sums


@dataclass(frozen=True)
class _Dtypes:
    weights: tuple[torch.dtype, ...]
    adapter: torch.dtype


@dataclass
class _Chunk:
    original: torch.Tensor
    target: torch.Tensor
    error: torch.Tensor
    dtypes: _Dtypes
    update: Update
    start: int
    stop: int


def _judge(sums: Sums, only: torch.Tensor | None, chunk: _Chunk) -> None:
    """Count what rounding does not explain, among the elements that ``only`` marks (all when it is None)."""
    left, right, terms = chunk.update.slack(chunk.start, chunk.stop)
    if only is None:
        original, target, error = chunk.original, chunk.target, chunk.error.abs()
        product = left[:, None] * right[None, :]
    else:
        i, j = only.nonzero(as_tuple=True)
        original, target, error = chunk.original[i, j], chunk.target[i, j], chunk.error[i, j].abs()
        product = left[i] * right[j]
    allowed = rounding(original, target, chunk.dtypes.weights) + product * (terms * 2.0**-24)
    if chunk.dtypes.adapter.itemsize == 2:
        allowed += half_ulp(target - original, chunk.dtypes.adapter)
    beyond = error > allowed
    count = int(torch.count_nonzero(beyond))
    if count:
        sums.beyond += count
        sums.far += int(torch.count_nonzero(error > allowed + COARSE * product))


def rounding(original: torch.Tensor, target: torch.Tensor, dtypes: Iterable[torch.dtype]) -> torch.Tensor:
    """What storing may cost, elementwise: the update rounded first, then the sum, in the coarsest of ``dtypes``.

    ``original`` and ``target`` are float32. Twice what one rounding costs: PEFT rounds the update first when it merges safely,
    and a base that is stored finer than the merged model is rounded before anything is added.
    """
    update = target - original
    largest = torch.maximum(torch.maximum(original.abs(), update.abs()), target.abs())
    allowed = FINE * (target.abs() + original.abs() + update.abs())
    for dtype in dtypes:
        if dtype.is_floating_point and dtype.itemsize < 8:
            once = half_ulp(largest, dtype) + half_ulp(update, dtype) + half_ulp(target, dtype)
            allowed = torch.maximum(allowed, once + FINE * largest)
    return allowed


def _without_infinities(sums: Sums, base: torch.Tensor, merged: torch.Tensor, update: Update, dtypes: _Dtypes) -> None:
    """The sums again over the elements that are numbers on both sides; the others are counted."""
    sums.size = sums.error = sums.across = 0.0
    sums.beyond = sums.far = sums.overflow = 0
    for start, stop in chunks(*update.shape):
        stored = merged[start:stop]
        original = base[start:stop].to(torch.float32)
        target = update.add_to(original.clone(), start, stop)
        error = stored.to(torch.float32) - target
        number = torch.isfinite(target) & torch.isfinite(error)
        sums.overflow += int(torch.count_nonzero(torch.isfinite(target) & ~torch.isfinite(error)))
        error[~number] = 0.0
        original[~number] = 0.0
        sums.error += float(torch.dot(error.view(-1), error.view(-1)))
        sums.size += float(torch.dot(original.view(-1), original.view(-1)))
        sums.across += update.along(error, start, stop)
        target[~number] = 0.0
        wrong = number & (error != 0)
        if bool(wrong.any()):
            _judge(sums, wrong, _Chunk(original, target, error, dtypes, update, start, stop))


def fold(base: torch.Tensor, merged: torch.Tensor, shape: tuple[int, int], visit: Callable[[torch.Tensor, torch.Tensor, int, int], None]) -> None:
    """``visit(W, M, start, stop)`` for float32 copies of the rows of both tensors, seen as matrices of ``shape``."""
    base, merged = base.reshape(shape), merged.reshape(shape)
    for start, stop in chunks(*shape):
        visit(base[start:stop].to(torch.float32, copy=True), merged[start:stop].to(torch.float32, copy=True), start, stop)


def same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one dtype and shape are equal bit by bit, at the speed of memory and without the GIL."""
    if not (one.is_contiguous() and other.is_contiguous()):
        one, other = one.contiguous(), other.contiguous()
    size = one.numel() * one.element_size()
    if _memcmp is None:
        return bool(torch.equal(one.view(-1).view(torch.uint8), other.view(-1).view(torch.uint8)))
    return size == 0 or bool(_memcmp(one.data_ptr(), other.data_ptr(), size) == 0)


def _find_memcmp() -> Callable[[int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None).memcmp
    except (OSError, AttributeError, TypeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    function.restype = ctypes.c_int
    return function


_memcmp = _find_memcmp()
