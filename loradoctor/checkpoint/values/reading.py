"""The bytes of a tensor in pieces, each read once: as they lie, or as blocks of a matrix whose short side stays whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from loradoctor.checkpoint.tensor import BITS, TensorInfo
from loradoctor.checkpoint.values.bits import PIECE, Scratch, integers, values

if TYPE_CHECKING:
    from loradoctor.checkpoint.values.bits import Bits


@dataclass(frozen=True, slots=True)
class Factor:
    """One half of a low-rank product, seen as a matrix of its first axis by all others.

    The rank is the number of rows (``lora_A``), with ``columns`` the number of columns (``lora_B``). ``experts`` share the tensor: their
    rows follow one another, their columns take turns (peft/tuners/lora/layer.py, ParamWrapper.get_delta_weight).
    """

    columns: bool = False
    experts: int = 1


def opened(path: Path) -> IO[bytes]:
    """The file, unbuffered: the pieces are large and their own buffer."""
    return path.open("rb", buffering=0)


def pieces(file: IO[bytes], info: TensorInfo, scratch: Scratch, factor: Factor | None = None) -> Iterator[Bits]:
    """The elements as unsigned integers of their width, in pieces; each is gone when the next is asked for. Raises OSError.

    Without ``factor`` a piece is flat. With it, it is (rank, some columns) or (some rows, rank x experts).
    """
    if info.count == 0:
        return
    if info.strides is not None:
        yield from _of_view(file, info, factor)
    elif factor is None:
        yield from _flat(file, info, scratch)
    else:
        rows = info.shape[0]
        yield from (_slabs if factor.columns else _panels)(file, info, rows, info.count // rows, scratch)


def experts(info: TensorInfo, count: int) -> tuple[TensorInfo, ...]:
    """A dense tensor cut along its first axis into ``count`` equal parts."""
    step = (info.end - info.start) // count
    shape = (info.shape[0] // count, *info.shape[1:])
    return tuple(replace(info, shape=shape, start=info.start + i * step, end=info.start + (i + 1) * step) for i in range(count))


def numbers(path: Path, info: TensorInfo, factor: Factor) -> Iterator[Bits]:
    """The pieces of a half as numbers in double precision. Raises OSError."""
    import numpy as np

    with opened(path) as file:
        for bits in pieces(file, info, Scratch(), factor):
            yield values(info.dtype, bits).astype(np.float64)


def same_bytes(path: Path, one: TensorInfo, other: TensorInfo) -> bool:
    """Whether two tensors of a file are stored byte for byte alike. Raises OSError."""
    size = one.end - one.start
    if (one.dtype, one.shape, one.strides, size) != (other.dtype, other.shape, other.strides, other.end - other.start):
        return False
    left, right = bytearray(PIECE), bytearray(PIECE)
    with opened(path) as file:
        for start in range(0, size, PIECE):
            length = min(PIECE, size - start)
            for info, buffer in ((one, left), (other, right)):
                file.seek(info.start + start)
                _exactly(file, memoryview(buffer)[:length])
            if left[:length] != right[:length]:
                return False
    return True


def _flat(file: IO[bytes], info: TensorInfo, scratch: Scratch) -> Iterator[Bits]:
    file.seek(info.start)
    for start in range(0, info.nbytes, PIECE):
        part = scratch.raw[: min(PIECE, info.nbytes - start)]
        _exactly(file, part)
        yield part.view(integers(info.dtype))


def _slabs(file: IO[bytes], info: TensorInfo, rows: int, columns: int, scratch: Scratch) -> Iterator[Bits]:
    """Whole rows, as many as a piece holds: they follow one another in the file."""
    width = columns * BITS[info.dtype] // 8
    step = max(1, PIECE // width)
    raw = scratch.raw if step * width <= PIECE else _fresh(width)
    file.seek(info.start)
    for start in range(0, rows, step):
        part = raw[: min(step, rows - start) * width]
        _exactly(file, part)
        yield part.view(integers(info.dtype)).reshape(-1, columns)


def _panels(file: IO[bytes], info: TensorInfo, rows: int, columns: int, scratch: Scratch) -> Iterator[Bits]:
    """All rows, some columns of each: one read when they are all the columns, else one read per row."""
    item = BITS[info.dtype] // 8
    step = max(1, PIECE // (rows * item))
    if step >= columns:
        step = columns
    raw = scratch.raw if rows * step * item <= PIECE else _fresh(rows * step * item)
    for start in range(0, columns, step):
        width = min(step, columns - start)
        part = raw[: rows * width * item]
        if width == columns:
            file.seek(info.start)
            _exactly(file, part)
        else:
            lines = part.reshape(rows, -1)
            for row in range(rows):
                file.seek(info.start + (row * columns + start) * item)
                _exactly(file, lines[row])
        yield part.view(integers(info.dtype)).reshape(rows, width)


def _of_view(file: IO[bytes], info: TensorInfo, factor: Factor | None) -> Iterator[Bits]:
    """A view of a `.bin`: what it looks at is read whole, then put in order piece by piece."""
    import numpy as np

    kind = integers(info.dtype)
    file.seek(info.start)
    stored = np.frombuffer(_exactly(file, bytearray(info.end - info.start)), kind)
    strides = tuple(s * kind.itemsize for s in info.strides or ())
    view = np.lib.stride_tricks.as_strided(stored, info.shape, strides, writeable=False)
    if factor is None:
        flat = view.reshape(-1)
        step = PIECE // kind.itemsize
        yield from (flat[start : start + step] for start in range(0, flat.size, step))
        return
    matrix = view.reshape(info.shape[0], -1)
    rows, columns = matrix.shape
    step = max(1, PIECE // (kind.itemsize * (columns if factor.columns else rows)))
    for start in range(0, rows if factor.columns else columns, step):
        part = matrix[start : start + step] if factor.columns else matrix[:, start : start + step]
        yield np.ascontiguousarray(part)


def _fresh(size: int) -> Bits:
    import numpy as np

    return np.empty(size, np.uint8)


def _exactly(file: IO[bytes], buffer: Any) -> Any:
    view, done = memoryview(buffer), 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise OSError(f"the file ended inside a tensor at byte {file.tell()}")
        done += count
    return buffer
