"""Numbers about one tensor of a merged model, a few rows at a time: how far it is from base plus update, and along what."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from .layers import half_ulp

CHUNK = 2**18
"""elements at a time: the handful of float32 temporaries of one chunk stay in a core's cache"""

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

    def onto(self, weight: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """``weight`` (float32 rows ``start`` to ``stop`` of the base) plus the update."""

    def along(self, rows: torch.Tensor, start: int, stop: int) -> float:
        """The inner product of ``rows`` with these rows of the update."""

    def norm2(self) -> float:
        """The squared Frobenius norm."""

    def slack(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        """``u``, ``v``, ``k``: the float32 sum for element (i, j) is within ``k·2⁻²⁴·u[i]·v[j]`` of the exact one."""

    def transposed(self) -> Update:
        """The transposed update."""


@dataclass
class Sums:
    """Squared norms and inner products of one tensor: W the base, Δ the update, T = W + Δ, M what the merged model has.

    ``size`` ‖W‖², ``update`` ‖Δ‖², ``error`` ‖M-T‖², ``across`` ⟨M-T, Δ⟩. ``beyond`` counts the elements of M that are further
    from T than rounding explains, ``far`` those that TF32 does not explain either, ``overflow`` those that became infinite.
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


def measure(base: torch.Tensor, merged: torch.Tensor, update: Update, adapter: torch.dtype = torch.float32) -> Sums:
    """Hold ``merged`` against ``base`` plus ``update``; both tensors may be mapped files and are read once, chunk by chunk.

    ``adapter`` is the dtype that the adapter is stored in: PEFT may round the update to it.
    """
    sums = Sums(elements=base.numel())
    rows, columns = update.shape
    base, merged = base.reshape(rows, columns), merged.reshape(rows, columns)
    sums.update = update.norm2()
    for start, stop in chunks(rows, columns):
        stored = merged[start:stop]
        original = base[start:stop].to(torch.float32)
        target = update.onto(original, start, stop)
        found = stored.to(torch.float32)
        error = found - target
        _add(sums, original, error, update.along(error, start, stop))
        if not math.isfinite(sums.error + sums.across):
            _without_infinities(sums, base, merged, update, adapter)
            return sums
        wrong = target.to(stored.dtype) != stored
        count = int(torch.count_nonzero(wrong))
        if count:
            chunk = _Chunk(original, target, error, (stored.dtype, base.dtype), adapter, update, start, stop)
            _judge(sums, wrong if count * 8 < wrong.numel() else None, chunk)
    return sums


@dataclass
class _Chunk:
    original: torch.Tensor
    target: torch.Tensor
    error: torch.Tensor
    dtypes: tuple[torch.dtype, torch.dtype]
    adapter: torch.dtype
    update: Update
    start: int
    stop: int


def _add(sums: Sums, original: torch.Tensor, error: torch.Tensor, across: float) -> None:
    flat, weights = error.view(-1), original.view(-1)
    sums.error += float(torch.dot(flat, flat))
    sums.size += float(torch.dot(weights, weights))
    sums.across += across


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
    allowed = rounding(original, target, chunk.dtypes) + product * (terms * 2.0**-24)
    if chunk.adapter.itemsize == 2:
        allowed += half_ulp(target - original, chunk.adapter)
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


def _without_infinities(sums: Sums, base: torch.Tensor, merged: torch.Tensor, update: Update, adapter: torch.dtype) -> None:
    """The sums again over the elements that are numbers on both sides; the others are counted."""
    sums.size = sums.error = sums.across = 0.0
    sums.beyond = sums.far = sums.overflow = 0
    for start, stop in chunks(*update.shape):
        stored = merged[start:stop]
        original = base[start:stop].to(torch.float32)
        target = update.onto(original, start, stop)
        error = stored.to(torch.float32) - target
        number = torch.isfinite(target) & torch.isfinite(error)
        sums.overflow += int(torch.count_nonzero(torch.isfinite(target) & ~torch.isfinite(error)))
        error[~number] = 0.0
        original[~number] = 0.0
        _add(sums, original, error, float(update.along(error, start, stop)))
        target[~number] = 0.0
        wrong = number & (error != 0)
        if bool(wrong.any()):
            _judge(sums, wrong, _Chunk(original, target, error, (stored.dtype, base.dtype), adapter, update, start, stop))


def fold(base: torch.Tensor, merged: torch.Tensor, shape: tuple[int, int], visit: Callable[[torch.Tensor, torch.Tensor, int, int], None]) -> None:
    """``visit(W, M, start, stop)`` for float32 rows of both tensors, seen as matrices of ``shape``."""
    base, merged = base.reshape(shape), merged.reshape(shape)
    for start, stop in chunks(*shape):
        visit(base[start:stop].to(torch.float32), merged[start:stop].to(torch.float32), start, stop)


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
