"""The stream of pickles that torch < 1.6 wrote, and bare pickles."""

from __future__ import annotations

import os
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from loradoctor.checkpoint.header import Header
from loradoctor.checkpoint.pickle import Storage, Tensor
from loradoctor.checkpoint.state_dict import Where, broken, state_dict, understood
from loradoctor.checkpoint.tensor import BITS

_PICKLE_LIMIT = 256 << 20
_LINE_LIMIT = 1 << 20
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""torch.serialization.MAGIC_NUMBER"""


def read_stream(path: Path, file: IO[bytes], size: int, *, unnest: bool = False) -> Header:
    """The stream of torch < 1.6: magic, protocol, system info, the object, storage keys (one pickle each), then the storages."""
    first = _first_pickle(file)
    if first != _LEGACY_MAGIC:
        file.seek(0)
        return state_dict(path, file.read(_PICKLE_LIMIT), _no_storage(path), unnest=unnest)
    _first_pickle(file), _first_pickle(file)
    start = file.tell()
    end = _end_of_pickle(path, file)
    keys = _first_pickle(file)
    position = file.tell()
    ranges: dict[str, tuple[int, int]] = {}
    file.seek(start)
    data = file.read(end - start)
    storages = {s.key: s for s in _storages(understood(path, data)[0])}
    for key in keys if isinstance(keys, list) else []:
        storage = storages.get(str(key))
        file.seek(position)
        count = int.from_bytes(file.read(8), "little")
        width = BITS[storage.dtype] // 8 if storage else 4
        ranges[str(key)] = (position + 8, min(position + 8 + count * width, size))
        position += 8 + count * width

    def where(storage: Storage) -> tuple[int, int]:
        if storage.key not in ranges:
            raise broken(path, f"lacks the storage `{storage.key}` of a tensor", "truncated")
        return ranges[storage.key]

    return state_dict(path, data, where, unnest=unnest)


def _storages(value: Any) -> Iterator[Storage]:
    """The storages of tensors up to three dicts deep; a dict that stands in many places is looked at once per depth."""
    level = [value]
    for _ in range(4):
        dicts = {id(v): v for v in level if isinstance(v, dict)}
        yield from (v.storage for v in level if isinstance(v, Tensor))
        level = [item for d in dicts.values() for item in d.values()]


def _no_storage(path: Path) -> Where:
    def where(_: Storage) -> tuple[int, int]:
        raise broken(path, "is a bare pickle that refers to tensors it does not hold", "wrong-format")

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
        raise broken(path, "has a damaged pickle", "truncated") from error
    raise broken(path, "ends inside its pickle", "truncated")
