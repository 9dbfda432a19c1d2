"""The transforms of a plan on real arrays: exact bits, one tensor in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from loradoctor.checkpoint.tensor import BITS, TensorInfo
from loradoctor.repair.plan import Origin, Plan, Source, TensorStep, Transform

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

CHUNK = 8 << 20
"""Bytes that are copied at a time."""
_NUMPY = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "<i1", "U8": "<u1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4",
    "I64": "<i8", "U64": "<u8", "BOOL": "<u1",
}  # fmt: skip
_EXTENDED = {
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


class Inexact(ValueError):
    """A transform that cannot be carried out on this tensor; the text is one clause for the user."""


def numpy_dtype(name: str) -> Any:
    """The numpy dtype of safetensors' ``name``. Raises :class:`Inexact` for one narrower than a byte or without numbers."""
    import numpy as np

    if name in _NUMPY:
        return np.dtype(_NUMPY[name])
    if name in _EXTENDED:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, _EXTENDED[name]))
    raise Inexact(f"tensors of dtype {name} are only copied, not changed")


def shape_after(shape: tuple[int, ...], dtype: str, transforms: Iterable[Transform]) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of the result. Raises :class:`Inexact` when a transform does not fit."""
    for transform in transforms:
        params = transform.params
        if transform.kind == "transpose":
            shape = shape[::-1]
        elif transform.kind == "permute":
            shape = tuple(shape[i] for i in _integers(params["axes"]))
        elif transform.kind == "reshape":
            shape = _reshaped(shape, _integers(params["shape"]))
        elif transform.kind == "slice":
            (axis,) = _integers([params["axis"]])
            start, stop = _integers([params["start"], params["stop"]])
            shape = (*shape[:axis], stop - start, *shape[axis + 1 :])
        elif transform.kind == "cast":
            dtype = str(params["dtype"])
        elif transform.kind != "negate":
            raise Inexact(f"`{transform.kind}` is no transform")
    return shape, dtype


def result_of(plan: Plan, step: TensorStep) -> TensorInfo:
    """Dtype and shape of what ``step`` makes (the offsets are zero). Raises :class:`Inexact` and KeyError."""
    parts = [shape_after(plan.origins[s.name].info.shape, plan.origins[s.name].info.dtype, s.transforms) for s in step.sources]
    shape, dtype = parts[0]
    if any(other != dtype for _, other in parts):
        raise Inexact(f"`{step.target}` is made of tensors of several dtypes")
    if len(parts) > 1:
        joined = sum(s[step.axis] for s, _ in parts)
        shape = (*shape[: step.axis], joined, *shape[step.axis + 1 :])
    shape, dtype = shape_after(shape, dtype, step.transforms)
    return TensorInfo(dtype, shape, 0, (math.prod(shape) * BITS[dtype] + 7) // 8)


def array(plan: Plan, step: TensorStep) -> Array:
    """What ``step`` makes, as an array of the result's dtype. Raises OSError and :class:`Inexact`."""
    import numpy as np

    parts = [_source(plan, source) for source in step.sources]
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=step.axis)
    return np.ascontiguousarray(_applied(whole, step.transforms))


def pieces(plan: Plan, step: TensorStep) -> Iterator[bytes]:
    """The bytes of what ``step`` makes, in order; a tensor that is only copied is never whole in memory. Raises OSError."""
    origin = plan.origins[step.sources[0].name]
    if step.is_copy and origin.info.strides is None:
        with origin.path.open("rb", buffering=0) as file:
            yield from _range(file, origin.info.start, origin.info.end)
        return
    yield array(plan, step).tobytes()


def numbers(origin: Origin) -> Array:
    """A source tensor with its dtype and shape. Raises OSError and :class:`Inexact`."""
    import numpy as np

    dtype = numpy_dtype(origin.info.dtype)
    with origin.path.open("rb", buffering=0) as file:
        data = b"".join(_range(file, origin.info.start, origin.info.end))
    flat = np.frombuffer(data, dtype)
    if origin.info.strides is None:
        return flat.reshape(origin.info.shape)
    steps = tuple(s * dtype.itemsize for s in origin.info.strides)
    return np.lib.stride_tricks.as_strided(flat, origin.info.shape, steps, writeable=False)


def exactly(values: Array, dtype: str) -> bool:
    """Whether every element survives a cast to ``dtype`` and back."""
    import numpy as np

    cast = _cast(values, dtype)
    return bool(np.array_equal(cast.astype(values.dtype).view(_raw(values)), np.ascontiguousarray(values).view(_raw(values))))


def _raw(values: Array) -> str:
    return f"<u{values.dtype.itemsize}"


def _source(plan: Plan, source: Source) -> Array:
    return _applied(numbers(plan.origins[source.name]), source.transforms)


def _applied(values: Array, transforms: Iterable[Transform]) -> Array:
    import numpy as np

    for transform in transforms:
        params: Mapping[str, object] = transform.params
        if transform.kind == "transpose":
            values = values.T
        elif transform.kind == "permute":
            values = values.transpose(_integers(params["axes"]))
        elif transform.kind == "reshape":
            values = np.ascontiguousarray(values).reshape(_integers(params["shape"]))
        elif transform.kind == "slice":
            (axis,) = _integers([params["axis"]])
            start, stop = _integers([params["start"], params["stop"]])
            values = values[(slice(None),) * axis + (slice(start, stop),)]
        elif transform.kind == "negate":
            values = -values
        elif transform.kind == "cast":
            values = _cast(values, str(params["dtype"]))
        else:
            raise Inexact(f"`{transform.kind}` is no transform")
    return values


def _cast(values: Array, dtype: str) -> Array:
    import numpy as np

    with np.errstate(all="ignore"):
        # A double becomes bfloat16 by way of single precision, as in torch: two roundings, the second of which can differ by one bit.
        return values.astype(numpy_dtype(dtype))


def _range(file: IO[bytes], start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    left = end - start
    while left:
        data = file.read(min(left, CHUNK))
        if not data:
            raise OSError(f"the file ends {left} bytes early")
        left -= len(data)
        yield data


def _reshaped(shape: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    count = math.prod(shape)
    known = math.prod(n for n in wanted if n != -1)
    if -1 in wanted:
        if not known or count % known:
            raise Inexact(f"{list(shape)} cannot be read as {list(wanted)}")
        return tuple(count // known if n == -1 else n for n in wanted)
    if known != count:
        raise Inexact(f"{list(shape)} cannot be read as {list(wanted)}")
    return wanted


def _integers(value: object) -> tuple[int, ...]:
    return tuple(int(n) for n in value) if isinstance(value, (list, tuple)) else ()
