"""Every tensor's bytes read once, in pieces: what rules need to know about its values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from loradoctor.checkpoint.tensor import BITS, TensorInfo

if TYPE_CHECKING:
    import numpy as np

    Bits = np.ndarray[Any, np.dtype[Any]]

_CHUNK = 1 << 19
"""Bytes per piece: larger ones only leave the processor's cache."""
_DEPENDENT = 1e-6
"""Singular values below this share of the largest are rounding, not content."""
_EXPONENT = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F80_0000, "F64": 0x7FF0_0000_0000_0000}
"""Bits of the exponent: all of them set means infinite or not a number (IEEE 754)."""
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
    scratch = _Scratch()
    with path.open("rb", buffering=0) as file:
        for name, info in sorted(tensors.items(), key=lambda item: item[1].start):
            if readable(info):
                result[name] = _measure(file, info, scratch)
    return {name: result[name] for name in tensors if name in result}


def load(path: Path, info: TensorInfo) -> Bits:
    """One tensor as numbers of its shape, single precision or wider. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return _load(file, info, _Scratch())


def _load(file: IO[bytes], info: TensorInfo, scratch: _Scratch) -> Bits:
    import numpy as np

    pieces = [np.array(_values(info.dtype, bits)) for bits in _pieces(file, info, scratch)]
    return np.concatenate(pieces).reshape(info.shape)


def dependent(path: Path, tensors: Mapping[str, TensorInfo], margin: int) -> dict[str, int]:
    """The dense matrices whose columns are linearly dependent, with their ranks. Raises OSError.

    ``margin`` rows per column are looked at in each; all rows only where these are dependent.
    """
    import numpy as np

    scratch = _Scratch()
    squares: defaultdict[int, dict[str, Bits]] = defaultdict(dict)
    found: dict[str, int] = {}
    with path.open("rb", buffering=0) as file:
        for name, info in sorted(tensors.items(), key=lambda item: item[1].start):
            rows, columns = info.shape
            squares[columns][name] = _square(_load(file, replace(info, shape=(min(rows, margin * columns), columns)), scratch))
        for columns, group in squares.items():
            doubtful = _ranks(np.stack(list(group.values()))) < columns
            for name in [n for n, odd in zip(group, doubtful, strict=True) if odd]:
                rank = int(_ranks(_square(_load(file, tensors[name], scratch))))
                if rank < columns:
                    found[name] = rank
    return found


def _square(matrix: Bits) -> Bits:
    import numpy as np

    wide = matrix.astype(np.float64)
    product: Bits = wide.T @ wide
    return product


def _ranks(squares: Bits) -> Bits:
    """The ranks of the matrices whose squares MᵀM these are. Squaring costs half the digits, which leaves enough to tell dependence."""
    import numpy as np

    values = np.sqrt(np.maximum(np.linalg.eigvalsh(squares), 0.0))
    ranks: Bits = (values > _DEPENDENT * values.max(axis=-1, keepdims=True)).sum(axis=-1)
    return ranks


class _Scratch:
    """Buffers that all pieces share: fresh memory would cost several times the arithmetic."""

    def __init__(self) -> None:
        import numpy as np

        self.raw = np.empty(_CHUNK, np.uint8)
        self.magnitudes = np.empty(_CHUNK, np.uint8)
        self.wide = np.empty(2 * _CHUNK, np.uint8)


@dataclass(frozen=True, slots=True)
class _Piece:
    count: int
    nans: int
    infs: int
    zeros: int
    absmax: float
    squares: float
    first: int
    constant: bool


def _measure(file: IO[bytes], info: TensorInfo, scratch: _Scratch) -> TensorStats:
    if info.count == 0:
        return TensorStats(0, 0, 0, 0, 0.0, 0.0, constant=False)
    parts = [_piece(info.dtype, bits, scratch) for bits in _pieces(file, info, scratch)]
    count = sum(p.count for p in parts)
    nans, infs = sum(p.nans for p in parts), sum(p.infs for p in parts)
    finite = count - nans - infs
    return TensorStats(
        count=count,
        nans=nans,
        infs=infs,
        zeros=sum(p.zeros for p in parts),
        absmax=max(p.absmax for p in parts),
        rms=(sum(p.squares for p in parts) / finite) ** 0.5 if finite else 0.0,
        constant=count > 1 and all(p.constant and p.first == parts[0].first for p in parts),
    )


def _pieces(file: IO[bytes], info: TensorInfo, scratch: _Scratch) -> Iterator[Bits]:
    """The elements as unsigned integers of their width, in pieces; each is gone when the next is asked for."""
    import numpy as np

    integers = np.dtype(_INTEGERS[BITS[info.dtype]])
    file.seek(info.start)
    if info.strides is not None:
        stored = np.frombuffer(_exactly(file, bytearray(info.end - info.start)), integers)
        strides = tuple(s * integers.itemsize for s in info.strides)
        flat = np.lib.stride_tricks.as_strided(stored, info.shape, strides, writeable=False).reshape(-1)
        step = _CHUNK // integers.itemsize
        for start in range(0, flat.size, step):
            yield flat[start : start + step]
        return
    for start in range(0, info.nbytes, _CHUNK):
        part = scratch.raw[: min(_CHUNK, info.nbytes - start)]
        _exactly(file, part)
        yield part.view(integers)


def _exactly(file: IO[bytes], buffer: Any) -> Any:
    view, done = memoryview(buffer), 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise OSError(f"the file ended inside a tensor at byte {file.tell()}")
        done += count
    return buffer


def _piece(dtype: str, bits: Bits, scratch: _Scratch) -> _Piece:
    """What one piece says; ``first`` is its first bit pattern, so that pieces can be compared."""
    import numpy as np

    first = bits[0]
    # Random values practically never end as they begin: the comparison of all costs nothing then.
    constant = bool(first == bits[-1] and (bits == first).all())
    exponent = _EXPONENT.get(dtype)
    if exponent is not None:
        magnitudes = scratch.magnitudes[: bits.nbytes].view(bits.dtype)
        np.bitwise_and(bits, bits.dtype.type((1 << (8 * bits.itemsize - 1)) - 1), out=magnitudes)
        top = magnitudes.max()
        if top < exponent:
            # Without their sign the bit patterns of finite floats are ordered as the values are.
            zeros = bits.size - int(np.count_nonzero(magnitudes))
            absmax = float(_values(dtype, np.array([top]))[0])
            return _Piece(bits.size, 0, 0, zeros, absmax, _squares(_magnitudes(dtype, magnitudes, scratch)), int(first), constant)
    with np.errstate(invalid="ignore"):  # a signalling NaN complains when it is cast
        values = _values(dtype, bits).astype(np.float64)
    nans, infs = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    values = values[np.isfinite(values)]
    absmax = float(np.abs(values).max()) if values.size else 0.0
    return _Piece(bits.size, nans, infs, int(values.size - np.count_nonzero(values)), absmax, _squares(values), int(first), constant)


def _squares(values: Bits) -> float:
    import numpy as np

    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        total = float(np.dot(values, values))
        if not np.isfinite(total):  # the squares overflow single precision
            wide = values.astype(np.float64)
            total = float(np.dot(wide, wide))
    return total


def _magnitudes(dtype: str, bits: Bits, scratch: _Scratch) -> Bits:
    """Finite values without sign, in single precision where the dtype is narrower; the scratch holds them."""
    import numpy as np

    if dtype in ("F32", "F64"):
        return bits.view(_PLAIN[dtype])
    wide = scratch.wide[: 4 * bits.size].view("<u4")
    wide[...] = bits
    if dtype == "BF16":  # the upper half of a float32
        np.left_shift(wide, np.uint32(16), out=wide)
        return wide.view("<f4")
    # Half precision: shifting and then correcting the exponent's bias (127 - 15) is exact, subnormals included, and several times
    # faster than numpy's cast, which goes element by element.
    np.left_shift(wide, np.uint32(13), out=wide)
    half = wide.view("<f4")
    half *= np.float32(2.0**112)
    return half


def _values(dtype: str, bits: Bits) -> Bits:
    """Any bits as numbers: single precision, double for wide dtypes and integers."""
    import numpy as np

    if dtype == "BF16":
        return (bits.astype("<u4") << np.uint32(16)).view("<f4")
    if dtype in _PLAIN:
        return bits.view(_PLAIN[dtype]).astype("<f4" if dtype in ("F16", "F32") else "<f8")
    import ml_dtypes

    values: Bits = bits.view(getattr(ml_dtypes, _ML_DTYPES[dtype])).astype("<f4")
    return values
