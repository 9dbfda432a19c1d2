"""Every tensor's bytes read once, in pieces: what rules need to know about its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from loradoctor.checkpoint.tensor import BITS, TensorInfo

if TYPE_CHECKING:
    import numpy as np

_CHUNK = 4 << 20
"""Bytes per piece: larger ones only leave the processor's cache."""
_INTEGERS = {8: "<u1", 16: "<u2", 32: "<u4", 64: "<u8"}
_PLAIN = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "<i1", "U8": "<u1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4",
    "I64": "<i8", "U64": "<u8", "BOOL": "<u1",
}  # fmt: skip
_ML_DTYPES = {
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorStats:
    """What the bytes of one tensor say. ``absmax`` and ``rms`` are over the finite values; ``constant`` means all equal."""

    count: int
    nans: int
    infs: int
    zeros: int
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


def readable(info: TensorInfo) -> bool:
    """Whether :func:`measure` understands this tensor.

    A view that repeats few stored elements very often (an expanded tensor) is left alone: its size is only a claim.
    """
    stored = (info.end - info.start) * 8 // BITS[info.dtype]
    return (info.dtype in _PLAIN or info.dtype in _ML_DTYPES) and (info.strides is None or info.count <= 4 * stored + 4096)


def measure(path: Path, tensors: Mapping[str, TensorInfo]) -> dict[str, TensorStats]:
    """Statistics of every tensor of ``path`` whose dtype is understood; one pass, in file order. Raises OSError."""
    result: dict[str, TensorStats] = {}
    with path.open("rb") as file:
        for name, info in sorted(tensors.items(), key=lambda item: item[1].start):
            if readable(info):
                result[name] = _measure(file, info)
    return {name: result[name] for name in tensors if name in result}


def _measure(file: IO[bytes], info: TensorInfo) -> TensorStats:
    if info.count == 0:
        return TensorStats(0, 0, 0, 0, 0.0, 0.0, constant=False)
    parts = [_piece(info.dtype, bits) for bits in _pieces(file, info)]
    count = sum(p[0] for p in parts)
    finite = count - sum(p[1] + p[2] for p in parts)
    total = sum(p[5] for p in parts)
    lows, highs = [p[6] for p in parts], [p[7] for p in parts]
    return TensorStats(
        count=count,
        nans=sum(p[1] for p in parts),
        infs=sum(p[2] for p in parts),
        zeros=sum(p[3] for p in parts),
        absmax=max(p[4] for p in parts),
        rms=(total / finite) ** 0.5 if finite else 0.0,
        constant=count > 1 and min(lows) == max(highs),
    )


def _pieces(file: IO[bytes], info: TensorInfo) -> Any:
    """The elements as unsigned integers of their width, in pieces; a strided tensor in one."""
    import numpy as np

    width = BITS[info.dtype] // 8
    integers = np.dtype(_INTEGERS[BITS[info.dtype]])
    file.seek(info.start)
    if info.strides is not None:
        stored = np.frombuffer(file.read(info.end - info.start), integers)
        strides = tuple(s * width for s in info.strides)
        yield np.lib.stride_tricks.as_strided(stored, info.shape, strides, writeable=False).reshape(-1)
        return
    left = info.nbytes
    while left > 0:
        data = file.read(min(_CHUNK, left))
        if len(data) < min(_CHUNK, left):
            raise OSError(f"the file ended inside a tensor at byte {file.tell()}")
        left -= len(data)
        yield np.frombuffer(data, integers)


def _piece(dtype: str, bits: np.ndarray[Any, Any]) -> tuple[int, int, int, int, float, float, Any, Any]:
    """Count, NaNs, infinities, zeros, absolute maximum, sum of squares, and the least and greatest bit pattern."""
    import numpy as np

    values = _values(dtype, bits)
    with np.errstate(all="ignore"):
        total = float(np.dot(values, values))
    nans = infs = 0
    if not np.isfinite(total):
        # Either a value is not finite, or the squares overflow single precision: look properly.
        values = values.astype(np.float64)
        nans, infs = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        values = values[np.isfinite(values)]
        with np.errstate(over="ignore"):
            total = float(np.dot(values, values))
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    zeros = int(bits.size - nans - infs - np.count_nonzero(values))
    return bits.size, nans, infs, zeros, max(-low, high), total, bits.min(), bits.max()


def _values(dtype: str, bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The elements in single precision (double for wide dtypes)."""
    import numpy as np

    if dtype == "F32":
        return bits.view("<f4")
    if dtype == "BF16":
        # bfloat16 is the upper half of a float32: cheaper than a cast through ml_dtypes.
        return (bits.astype("<u4") << np.uint32(16)).view("<f4")
    if dtype == "F16":
        return bits.view("<f2").astype("<f4")
    if dtype in _PLAIN:
        return bits.view(_PLAIN[dtype]).astype("<f8")
    import ml_dtypes

    values: np.ndarray[Any, Any] = bits.view(getattr(ml_dtypes, _ML_DTYPES[dtype])).astype("<f4")
    return values
