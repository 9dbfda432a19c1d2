"""A tensor as its file describes it: dtype, shape and where its bytes lie. Nothing is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64,
    "I64": 64,
    "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6,
    "F6_E3M2": 6,
}  # fmt: skip
"""Width of every safetensors dtype (safetensors/src/tensor.rs, enum Dtype)."""

FLOATS = frozenset(d for d in BITS if d.startswith(("F", "BF")))


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """``dtype`` is safetensors' name (``F32``), ``start`` and ``end`` are byte offsets in the file.

    ``strides`` (in elements) is None for a dense row-major tensor; only a ``.bin`` has others.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    strides: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes the elements take, rounded up for dtypes below a byte."""
        return (self.count * BITS[self.dtype] + 7) // 8

    @property
    def is_float(self) -> bool:
        """Whether the values are floating point."""
        return self.dtype in FLOATS
