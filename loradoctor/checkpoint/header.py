"""The safetensors header, parsed by hand so that every fault is named with the byte it is at.

Format: 8 bytes little-endian length N, N bytes of JSON `{name: {dtype, shape, data_offsets}}`, then the data without holes
(safetensors/src/tensor.rs). The reference reader says "header too large" for a Git LFS pointer and keeps silent about a name
that occurs twice; this one does neither.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from loradoctor.checkpoint.fault import Fault, ReadError
from loradoctor.checkpoint.opening import opened
from loradoctor.checkpoint.tensor import BITS, TensorInfo

HEADER_LIMIT = 100_000_000
"""Longest header that safetensors reads (MAX_HEADER_SIZE)."""
_SHOWN = 300
"""Characters of a name that a message repeats."""
_REPR = reprlib.Repr()
_REPR.maxlist, _REPR.maxlevel = 8, 3
_LFS = b"version https://git-lfs"
_MAGICS = {
    b"PK\x03\x04": "a PyTorch zip archive",
    b"\x80\x02": "a pickle",
    b"GGUF": "a GGUF file",
    b"<!DOCTY": "an HTML page",
    b"<html": "an HTML page",
}


@dataclass(frozen=True, slots=True)
class Header:
    """What a weights file says about itself; ``repeated`` are names that stand in it more than once."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    repeated: tuple[str, ...] = ()


def read_header(path: Path) -> Header:
    """Parse and validate the header of ``path``. Raises :class:`ReadError` (LD502, LD503) and OSError."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        if size == 0:
            raise _broken(path, "is empty (0 bytes)", "empty")
        lead = start + file.read(120)
        if lead.startswith(_LFS):
            raise lfs_pointer(path, lead + file.read(400))
        # A header of 640 bytes starts like a pickle (80 02), but zeros and the brace of its JSON follow.
        plain = lead[4:9] == b"\0\0\0\0{"
        for magic, what in _MAGICS.items():
            if lead.startswith(magic) and not plain:
                hint = "rename it to `adapter_model.bin`, or save it with `safetensors`" if what.startswith("a P") else "fetch it again"
                raise _broken(path, f"is {what}, not a safetensors file", "wrong-format", help_=hint)
        if size < 8:
            raise _broken(path, f"has {size} bytes; a safetensors file has at least 8", "truncated")
        length = int.from_bytes(start, "little")
        if length > HEADER_LIMIT:
            raise _broken(
                path,
                f"says at byte 0 that its header is {length} bytes long; safetensors reads at most {HEADER_LIMIT}",
                "header-length",
            )
        if 8 + length > size:
            raise _broken(path, f"ends at byte {size}, inside its header of {length} bytes", "truncated")
        file.seek(8)
        data = file.read(length)
    return _header(path, data, size)


def _header(path: Path, data: bytes, size: int) -> Header:
    repeated: list[str] = []
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _broken(path, f"has a header that is not UTF-8 at byte {8 + error.start}", "header-encoding") from error
    if not text.startswith("{"):
        raise _broken(path, "has a header that does not start with `{` at byte 8", "header-json")
    try:
        raw = json.loads(text, object_pairs_hook=_collect(repeated))
    except json.JSONDecodeError as error:
        at = 8 + len(text[: error.pos].encode())
        raise _broken(path, f"has a header that is not JSON at byte {at}: {error.msg[:1].lower()}{error.msg[1:]}", "header-json") from error
    except (RecursionError, ValueError) as error:
        raise _broken(path, f"has a header that cannot be parsed: {type(error).__name__}", "header-json") from error
    if not isinstance(raw, dict):
        raise _broken(path, "has a header that is not an object", "header-json")
    metadata = raw.pop("__metadata__", None)
    if metadata is None:  # MLX writes null where there is none; safetensors reads it so
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _broken(path, "has a `__metadata__` that does not map text to text", "header-json")
    base = 8 + len(data)
    tensors = {name: _tensor(path, name, entry, base) for name, entry in raw.items()}
    _contiguous(path, tensors, base, size)
    return Header(tensors, metadata, tuple(n for n in dict.fromkeys(repeated) if n in tensors))


def _collect(repeated: list[str]) -> Any:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    repeated.append(key)
                seen.add(key)
        return result

    return build


def _tensor(path: Path, name: str, entry: object, base: int) -> TensorInfo:
    if not isinstance(entry, dict):
        raise _broken(path, f"describes the tensor `{_short(name)}` with something other than an object", "header-json", key=name)
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _broken(path, f"gives the tensor `{_short(name)}` the dtype `{_short(dtype)}`, which safetensors does not have", "dtype", key=name)
    if not _naturals(shape):
        raise _broken(path, f"gives the tensor `{_short(name)}` the shape `{_short(shape)}`", "shape", key=name)
    if _overflows(shape, BITS[dtype]):
        message = f"gives the tensor `{_short(name)}` the shape `{_short(shape)}`, more elements than 64 bits can count"
        raise _broken(path, message, "shape-bytes", key=name)
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(path, f"gives the tensor `{_short(name)}` the byte range `{_short(offsets)}`", "offsets", key=name)
    info = TensorInfo(dtype, tuple(shape), base + offsets[0], base + offsets[1])
    if info.nbytes != offsets[1] - offsets[0]:
        message = f"gives `{_short(name)}` {offsets[1] - offsets[0]} bytes, but {dtype} {_short(shape)} takes {info.nbytes}"
        raise _broken(path, message, "shape-bytes", key=name)
    return info


def _naturals(value: object) -> TypeGuard[list[int]]:
    # bool is an int to Python, and 2**63 overflows every reader.
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)


def _overflows(shape: list[int], bits: int) -> bool:
    """Whether safetensors' own product of the lengths does, before a later zero as well; never multiplies numbers that grew large."""
    count = 1
    for length in shape:
        count *= length
        if count >= 1 << 64:
            return True
    return count * bits >= 1 << 64


def _short(value: object) -> str:
    """A value of the file as far as a line of text has room for it."""
    if not isinstance(value, str):
        return _REPR.repr(value)
    return value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"


def _contiguous(path: Path, tensors: Mapping[str, TensorInfo], base: int, size: int) -> None:
    """Bytes must follow each other without overlap or hole, and end where the file ends."""
    position, previous = base, ""
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.end > size:
            message = f"ends at byte {size}, but the tensor `{_short(name)}` reaches to byte {info.end}"
            raise _broken(path, message, "truncated", key=name, missing=info.end - size)
        if info.start < position:
            raise _broken(path, f"has `{_short(name)}` overlap `{_short(previous)}` at byte {info.start}", "overlap", key=name)
        if info.start > position:
            raise _broken(path, f"has {info.start - position} unused bytes before `{_short(name)}` at byte {position}", "hole", key=name)
        position, previous = info.end, name
    if position < size:
        raise _broken(path, f"has {size - position} bytes after its last tensor, from byte {position} on", "trailing")


def is_lfs_pointer(data: bytes) -> bool:
    """Whether a file that starts with ``data`` is a Git LFS pointer."""
    return data.startswith(_LFS)


def lfs_pointer(path: Path, data: bytes) -> ReadError:
    """The LD503 for a pointer file with this content."""
    fields = dict(line.split(" ", 1) for line in data.decode("ascii", "replace").splitlines() if " " in line)
    stated = fields.get("size", "")
    size = f" of {int(stated):,} bytes" if stated.isdecimal() and len(stated) < 20 else ""
    return ReadError(
        Fault(
            "lfs-pointer",
            f"`{path.name}` is a Git LFS pointer, not the weights{size}",
            "nothing can be loaded from it: run `git lfs install && git lfs pull` in the clone, or download the file from the hub",
            file=path.name,
            data={"cause": "lfs-pointer", "size": int(stated) if size else None},
        )
    )


def _broken(path: Path, what: str, cause: str, *, key: str | None = None, help_: str = "", **data: object) -> ReadError:
    return ReadError(
        Fault(
            "unreadable-weights",
            f"`{path.name}` {what}",
            help_ or "no reader accepts this file: copy or download it again, or save the adapter again with `save_pretrained`",
            file=path.name,
            key=key,
            data={"cause": cause, **data},
        )
    )
