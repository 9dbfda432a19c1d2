"""A torch `.bin` as a file: the zip of torch ≥ 1.6 or the older stream of pickles, its tensors with their byte ranges."""

from __future__ import annotations

import os
import pickletools
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from loradoctor.checkpoint.fault import Fault, ReadError
from loradoctor.checkpoint.header import Header, is_lfs_pointer, lfs_pointer
from loradoctor.checkpoint.pickle import Opaque, Refused, Storage, Tensor, is_dangerous, walk
from loradoctor.checkpoint.tensor import BITS, TensorInfo

_PICKLE_LIMIT = 256 << 20
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MEMBER_LIMIT = 1_000_000
_LINE_LIMIT = 1 << 20
_MODEL_LIBRARIES = frozenset({"torch", "peft", "transformers", "diffusers", "sentence_transformers", "collections", "__main__"})


def read_archive(path: Path) -> Header:
    """The tensors of a `.bin`. Raises :class:`ReadError` (LD502, LD503, LD506, LD507) and OSError."""
    with warnings.catch_warnings(), path.open("rb") as file:
        # An escape in a text opcode can make the standard library warn about source code that nobody wrote.
        warnings.simplefilter("ignore")
        lead = file.read(512)
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise _broken(path, "is empty (0 bytes)", "empty")
        if is_lfs_pointer(lead):
            raise lfs_pointer(path, lead)
        file.seek(0)
        if lead.startswith(b"PK\x03\x04"):
            return _zip(path, file, size)
        if lead.startswith(b"\x80") and lead[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            return _legacy(path, file, size)
    if len(lead) > 8 and int.from_bytes(lead[:8], "little") < size and lead[8:9] == b"{":
        raise _broken(path, "is a safetensors file", "wrong-format", "rename it to `adapter_model.safetensors`")
    raise _broken(path, "is neither a PyTorch archive nor a pickle", "wrong-format")


def _zip(path: Path, file: IO[bytes], size: int) -> Header:
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()[:_MEMBER_LIMIT]}
            pickles = [name for name in members if name.endswith("data.pkl") and name.count("/") <= 1]
            if not pickles:
                raise _broken(path, "is a zip archive without `data.pkl`", "wrong-format")
            name = pickles[0]
            # The size in the directory is the attacker's word: read no more than the limit, whatever it says.
            data = _member(archive, name, _PICKLE_LIMIT + 1)
            order = f"{name.removesuffix('data.pkl')}byteorder"
            big = order in members and _member(archive, order, 3) == b"big"
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, KeyError, zlib.error) as error:
        raise _broken(path, f"is a damaged zip archive: {str(error)[:80].lower()}", "truncated") from error
    if len(data) > _PICKLE_LIMIT:
        raise _broken(path, f"has a pickle of more than {_PICKLE_LIMIT >> 20} MB", "too-large")
    if big:
        raise _broken(path, "was written on a big-endian machine", "byteorder", "load it with torch and save it as safetensors")
    root = name.removesuffix("data.pkl")
    return _state_dict(path, data, lambda storage: _zip_range(path, file, members.get(f"{root}data/{storage.key}"), storage, size))


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError("a compression that torch does not know")
    with archive.open(name) as member:
        return member.read(limit)


def _zip_range(path: Path, file: IO[bytes], member: zipfile.ZipInfo | None, storage: Storage, size: int) -> tuple[int, int]:
    if member is None:
        raise _broken(path, f"lacks the entry `data/{storage.key}` of a tensor", "truncated")
    if member.compress_type != zipfile.ZIP_STORED:
        raise _broken(path, f"has the entry `{member.filename}` compressed, which torch does not write", "wrong-format")
    file.seek(member.header_offset + 26)
    lengths = file.read(4)
    start = member.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    if start + member.file_size > size:
        raise _broken(path, f"ends inside the entry `{member.filename}`", "truncated")
    return start, start + member.file_size


def _legacy(path: Path, file: IO[bytes], size: int) -> Header:
    """The stream of torch < 1.6: magic, protocol, system info, the object, storage keys (one pickle each), then the storages."""
    first = _first_pickle(file)
    if first != _LEGACY_MAGIC:
        file.seek(0)
        return _state_dict(path, file.read(_PICKLE_LIMIT), _no_storage(path))
    _first_pickle(file), _first_pickle(file)
    start = file.tell()
    end = _end_of_pickle(path, file)
    keys = _first_pickle(file)
    position = file.tell()
    ranges: dict[str, tuple[int, int]] = {}
    file.seek(start)
    data = file.read(end - start)
    storages = {s.key: s for s in _storages(_walk(path, data)[0])}
    for key in keys if isinstance(keys, list) else []:
        storage = storages.get(str(key))
        file.seek(position)
        count = int.from_bytes(file.read(8), "little")
        width = BITS[storage.dtype] // 8 if storage else 4
        ranges[str(key)] = (position + 8, min(position + 8 + count * width, size))
        position += 8 + count * width

    def where(storage: Storage) -> tuple[int, int]:
        if storage.key not in ranges:
            raise _broken(path, f"lacks the storage `{storage.key}` of a tensor", "truncated")
        return ranges[storage.key]

    return _state_dict(path, data, where)


def _storages(value: Any, depth: int = 3) -> Iterator[Storage]:
    if isinstance(value, Tensor):
        yield value.storage
    elif isinstance(value, dict) and depth:
        for item in value.values():
            yield from _storages(item, depth - 1)


def _no_storage(path: Path) -> Any:
    def where(_: Storage) -> tuple[int, int]:
        raise _broken(path, "is a bare pickle that refers to tensors it does not hold", "wrong-format")

    return where


class _Bounded:
    """A file that never reads past its end: a stated length of gigabytes must not be believed, as buffered reading would."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        return self._file.read(max(0, min(count, self._size - self._file.tell())))

    def readline(self) -> bytes:
        return self._file.readline(_LINE_LIMIT)


def _opcodes(file: IO[bytes]) -> Iterator[tuple[Any, Any, Any]]:
    return pickletools.genops(cast("IO[bytes]", _Bounded(file)))


def _first_pickle(file: IO[bytes]) -> Any:
    """The plain value of the next pickle in a stream (numbers, strings, lists); None for anything else."""
    try:
        stack: list[Any] = []
        marks: list[int] = []
        for op, arg, _ in _opcodes(file):
            if op.name == "MARK":
                marks.append(len(stack))
            elif op.name in ("APPENDS", "SETITEMS"):
                at = marks.pop()
                items = stack[at:]
                del stack[at:]
                if isinstance(stack[-1], list):
                    stack[-1].extend(items)
            elif op.name == "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            elif op.name == "EMPTY_LIST":
                stack.append([])
            elif op.name == "STOP":
                return stack[-1] if stack else None
            elif arg is not None and "PUT" not in op.name and op.name not in ("PROTO", "FRAME"):
                stack.append(arg)
            elif op.name in ("NEWTRUE", "NEWFALSE", "EMPTY_DICT"):
                stack.append(op.name)
    except (ValueError, IndexError, AttributeError):
        return None
    return None


def _end_of_pickle(path: Path, file: IO[bytes]) -> int:
    try:
        for op, _, _ in _opcodes(file):
            if op.name == "STOP":
                return file.tell()
    except ValueError as error:
        raise _broken(path, "has a damaged pickle", "truncated") from error
    raise _broken(path, "ends inside its pickle", "truncated")


def _walk(path: Path, data: bytes) -> tuple[Any, tuple[str, ...]]:
    try:
        value, strangers = walk(data)
    except Refused as refused:
        if _dangerous(refused.names):
            raise _unsafe(path, refused.names) from refused
        raise _broken(path, f"holds a pickle that cannot be read: {refused}", "pickle") from refused
    if _dangerous(strangers):
        raise _unsafe(path, strangers)
    return value, strangers


def _dangerous(names: tuple[str, ...]) -> bool:
    return any(is_dangerous(n) for n in names)


def _state_dict(path: Path, data: bytes, where: Any) -> Header:
    value, strangers = _walk(path, data)
    if strangers and isinstance(value, Opaque) and value.what.partition(".")[0] not in _MODEL_LIBRARIES:
        raise _unsafe(path, strangers)
    if not isinstance(value, dict):
        what = value.what if isinstance(value, Opaque) else type(value).__name__
        raise _not_a_state_dict(path, f"holds a whole `{what}` object, not a state dict", "whole-object", strangers)
    inner = next((k for k, v in value.items() if isinstance(v, dict) and any(isinstance(t, Tensor) for t in v.values())), None)
    if inner is not None and not any(isinstance(v, Tensor) for v in value.values()):
        raise _not_a_state_dict(path, f"holds the state dict under the key `{inner}`", "nested-state-dict", strangers)
    if strangers and all(s.startswith("torch.") for s in strangers):
        raise _not_a_state_dict(path, f"holds more than plain tensors: `{strangers[0]}`", "special-tensors", strangers)
    if strangers:
        raise _unsafe(path, strangers)
    tensors: dict[str, TensorInfo] = {}
    for name, tensor in value.items():
        if isinstance(tensor, Tensor):
            tensors[str(name)] = _info(path, str(name), tensor, where(tensor.storage))
    if value and not tensors:
        raise _not_a_state_dict(path, "holds no tensors, only other values", "no-tensors", strangers)
    return Header(tensors, {})


def _info(path: Path, name: str, tensor: Tensor, span: tuple[int, int]) -> TensorInfo:
    width = BITS[tensor.dtype] // 8
    start = span[0] + tensor.offset * width
    dense: list[int] = []
    step = 1
    for length in reversed(tensor.shape):
        dense.insert(0, step)
        step *= length
    empty = 0 in tensor.shape
    used = 0 if empty else 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if start + used * width > span[1]:
        raise _broken(path, f"has fewer bytes than the tensor `{name}` needs", "truncated", key=name)
    # A stride over a length of one is arbitrary: torch keeps whatever a view left there.
    is_dense = empty or all(n == 1 or s == d for n, s, d in zip(tensor.shape, tensor.strides, dense, strict=True))
    return TensorInfo(tensor.dtype, tensor.shape, start, start + used * width, None if is_dense else tensor.strides)


def _unsafe(path: Path, names: tuple[str, ...]) -> ReadError:
    listed = [n for n in names if is_dangerous(n)] or list(names)
    shown = ", ".join(f"`{n}`" for n in listed[:3])
    return ReadError(
        Fault(
            "unsafe-pickle",
            f"`{path.name}` calls {shown} when it is unpickled",
            "a state dict never does: do not load this file with `weights_only=False`, and get the adapter as safetensors from "
            "a source you trust",
            file=path.name,
            data={"cause": "unsafe-global", "globals": listed},
        )
    )


def _not_a_state_dict(path: Path, what: str, cause: str, strangers: tuple[str, ...]) -> ReadError:
    return ReadError(
        Fault(
            "not-a-state-dict",
            f"`{path.name}` {what}",
            "PEFT loads nothing from it: save with `model.save_pretrained(...)`, which writes the adapter's tensors only",
            file=path.name,
            data={"cause": cause, "globals": list(strangers[:20])},
        )
    )


def _broken(path: Path, what: str, cause: str, help_: str = "", *, key: str | None = None) -> ReadError:
    return ReadError(
        Fault(
            "unreadable-weights",
            f"`{path.name}` {what}",
            help_ or "torch cannot load it: copy or download the file again, or save the adapter again",
            file=path.name,
            key=key,
            data={"cause": cause},
        )
    )
