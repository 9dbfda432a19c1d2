"""Bit patterns as numbers, for every dtype of safetensors that has a width of whole bytes."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from loradoctor.checkpoint.tensor import BITS, TensorInfo

if TYPE_CHECKING:
    import numpy as np

    Bits = np.ndarray[Any, np.dtype[Any]]

PIECE = 1 << 18
"""Bytes per piece: larger ones leave the processor's cache, smaller ones cost more calls than arithmetic."""
EXPONENT = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F80_0000, "F64": 0x7FF0_0000_0000_0000}
"""Bits of the exponent: all of them set means infinite or not a number (IEEE 754)."""
SMALLEST_NORMAL = {"F16": 1 << 10, "BF16": 1 << 7, "F32": 1 << 23, "F64": 1 << 52}
"""The first bit pattern whose exponent is not zero; below it are zero and the subnormal numbers."""
_INTEGERS = {8: "<u1", 16: "<u2", 32: "<u4", 64: "<u8"}
_PLAIN = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "<i1", "U8": "<u1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4",
    "I64": "<i8", "U64": "<u8", "BOOL": "<u1",
}  # fmt: skip
_ML_DTYPES = {
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


def readable(info: TensorInfo) -> bool:
    """Whether the values of this tensor can be read.

    A view that repeats few stored elements very often (an expanded tensor) is left alone: its size is only a claim.
    """
    stored = (info.end - info.start) * 8 // BITS[info.dtype]
    return (info.dtype in _PLAIN or info.dtype in _ML_DTYPES) and (info.strides is None or info.count <= 4 * stored + 4096)


def integers(dtype: str) -> np.dtype[Any]:
    """The unsigned integer as wide as ``dtype``."""
    import numpy as np

    return np.dtype(_INTEGERS[BITS[dtype]])


class Scratch:
    """Buffers that all pieces share: fresh memory would cost several times the arithmetic."""

    def __init__(self) -> None:
        import numpy as np

        self.raw = np.empty(PIECE, np.uint8)
        self.single = np.empty(PIECE // 2, np.float32)
        self.double = np.empty(PIECE // 2, np.float64)


def values(dtype: str, bits: Bits) -> Bits:
    """Any bits as numbers: single precision, double for wide dtypes and integers."""
    import numpy as np

    if dtype == "BF16":
        return (bits.astype("<u4") << np.uint32(16)).view("<f4")
    if dtype in _PLAIN:
        return bits.view(_PLAIN[dtype]).astype("<f4" if dtype in ("F16", "F32") else "<f8")
    import ml_dtypes

    numbers: Bits = bits.view(getattr(ml_dtypes, _ML_DTYPES[dtype])).astype("<f4")
    return numbers


def finite(dtype: str, bits: Bits, scratch: Scratch) -> Bits:
    """Bits of F16, BF16, F32 or F64 that are known to be finite as numbers, F16 and BF16 in single precision in the scratch."""
    import numpy as np

    if dtype in ("F32", "F64"):
        return bits.view(_PLAIN[dtype])
    number = scratch.single[: bits.size].reshape(bits.shape)
    wide = number.view(np.int32)
    wide[...] = bits.view(np.int16)
    if dtype == "BF16":  # the upper half of a float32
        np.left_shift(wide, np.int32(16), out=wide)
        return number
    # Half precision: moving the bits to their places, the sign included, and then correcting the exponent's bias (127 - 15) is exact,
    # subnormals too, and several times faster than numpy's cast, which goes element by element.
    np.left_shift(wide, np.int32(13), out=wide)
    np.bitwise_and(wide, np.int32(0x8FFF_FFFF - (1 << 32)), out=wide)
    number *= np.float32(2.0**112)
    return number


def doubled(numbers: Bits, scratch: Scratch) -> Bits:
    """The same numbers in double precision, in the scratch unless they are already."""
    import numpy as np

    if numbers.dtype == np.float64:
        return numbers
    wide = scratch.double[: numbers.size].reshape(numbers.shape)
    wide[...] = numbers
    return wide


@cache
def table(dtype: str) -> Bits:
    """What each of the 256 patterns of an 8-bit dtype means, in double precision."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        return values(dtype, np.arange(256, dtype=np.uint8)).astype(np.float64)


@cache
def tiny(dtype: str) -> float:
    """The smallest normal number of an 8-bit float; 0 for integers."""
    if dtype not in _ML_DTYPES:
        return 0.0
    import ml_dtypes

    return float(ml_dtypes.finfo(getattr(ml_dtypes, _ML_DTYPES[dtype])).smallest_normal)
