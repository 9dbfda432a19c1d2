"""Single numbers out of a weights file: the `alpha` tensors that several tools write."""

from __future__ import annotations

import struct
from pathlib import Path

from loradoctor.checkpoint.tensor import TensorInfo

_FORMATS = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b", "U8": "<B"}


def number(path: Path, info: TensorInfo) -> float | None:
    """The value of a tensor of one element, None when it is not one or has a dtype that alphas never have. Raises OSError."""
    if info.count != 1 or (info.dtype not in _FORMATS and info.dtype != "BF16"):
        return None
    with path.open("rb") as file:
        file.seek(info.start)
        data = file.read(info.nbytes)
    if len(data) < info.nbytes:
        return None
    if info.dtype == "BF16":
        return float(struct.unpack("<f", b"\0\0" + data)[0])
    return float(struct.unpack(_FORMATS[info.dtype], data)[0])
