"""The header of a GGUF file: metadata and tensors with their byte ranges (ggml/docs/gguf.md). Nothing is dequantized."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO

from loradoctor.checkpoint.fault import Fault, ReadError
from loradoctor.checkpoint.header import Header
from loradoctor.checkpoint.opening import opened
from loradoctor.checkpoint.tensor import BITS, TensorInfo

MAGIC = b"GGUF"
_TENSORS = 1 << 20
_KEYS = 1 << 16
_TEXT = 1 << 24
_HEADER = 1 << 28
"""Bytes of header that are looked at: a vocabulary of 256k tokens takes a few megabytes."""
_PLAIN = {0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"}
"""ggml_type → safetensors' name; every other type is quantized in blocks."""
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


class _Damaged(Exception):
    pass


class _Reader:
    """Reads the header forward; never beyond the file, never more than the limits."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = min(size, _HEADER)

    def take(self, count: int) -> bytes:
        if count > self._left:
            raise _Damaged("ends inside its header")
        data = self._file.read(count)
        if len(data) < count:
            raise _Damaged("ends inside its header")
        self._left -= count
        return data

    def number(self, kind: str) -> int | float:
        value: int | float = struct.unpack(kind, self.take(struct.calcsize(kind)))[0]
        return value

    def natural(self, limit: int, what: str, kind: str = "<Q") -> int:
        value = int(self.number(kind))
        if value > limit:
            raise _Damaged(f"claims {value} {what}")
        return value

    def text(self) -> str:
        return self.take(self.natural(_TEXT, "bytes of text")).decode("utf-8", "replace")

    def value(self, kind: int) -> str:
        """A metadata value as text; arrays are skipped."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = int(self.number("<I")), self.natural(1 << 24, "elements")
            if inner in _NUMBERS:
                self.take(count * struct.calcsize(_NUMBERS[inner]))
            elif inner == _STRING:
                for _ in range(count):
                    self.text()
            else:
                raise _Damaged(f"has an array of the unknown type {inner}")
            return ""
        if kind not in _NUMBERS:
            raise _Damaged(f"has a value of the unknown type {kind}")
        return repr(self.number(_NUMBERS[kind]))


def read_gguf(path: Path) -> Header:
    """Tensors and metadata of a GGUF file. Raises :class:`ReadError` (LD502, LD509) and OSError.

    The lengths of a tensor are given slowest first, as in every other format. A quantized tensor is an LD509: no dtype of ours
    describes it.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        reader = _Reader(file, size)
        try:
            if reader.take(4) != MAGIC:
                raise _Damaged("is no GGUF file")
            version = int(reader.number("<I"))
            if version not in (2, 3):
                raise _Damaged(f"has the GGUF version {version}; 2 and 3 are known")
            tensors, keys = reader.natural(_TENSORS, "tensors"), reader.natural(_KEYS, "keys")
            metadata: dict[str, str] = {}
            for _ in range(keys):
                name = reader.text()
                metadata[name] = reader.value(int(reader.number("<I")))
            entries = [_entry(reader) for _ in range(tensors)]
        except (_Damaged, struct.error, OverflowError) as damage:
            raise _broken(path, str(damage)) from damage
        position = file.tell()
    width = metadata.get("general.alignment", "32")
    alignment = int(width) if width.isdecimal() and 0 < int(width) <= 1 << 16 else 32
    start = -(-position // alignment) * alignment
    if not any(name.endswith((".lora_a", ".lora_b")) for name, *_ in entries):
        raise _whole(path)
    if quantized := [name for name, _, kind, _ in entries if kind not in _PLAIN]:
        raise _quantized(path, quantized, len(entries))
    found: dict[str, TensorInfo] = {}
    for name, shape, kind, offset in entries:
        dtype = _PLAIN[kind]
        count = 1
        for length in shape:
            count *= length
        end = start + offset + count * BITS[dtype] // 8
        if end > size:
            raise _broken(path, f"ends before the tensor `{name}` does")
        found[name] = TensorInfo(dtype, shape, start + offset, end)
    return Header(found, metadata)


def _entry(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name = reader.text()
    axes = reader.natural(8, "axes", "<I")
    shape = tuple(reader.natural(1 << 40, "elements") for _ in range(axes))[::-1]
    return name, shape, int(reader.number("<I")), reader.natural(1 << 50, "bytes before a tensor")


def _broken(path: Path, what: str) -> ReadError:
    help_ = "llama.cpp cannot load it: copy or convert the file again"
    return ReadError(Fault("unreadable-weights", f"`{path.name}` {what}", help_, file=path.name, data={"cause": "gguf"}))


def _whole(path: Path) -> ReadError:
    help_ = "there is no adapter in it: use it with llama.cpp as it is"
    return ReadError(Fault("foreign-format", f"`{path.name}` holds a whole model", help_, file=path.name, data={"cause": "gguf-model"}))


def _quantized(path: Path, names: list[str], total: int) -> ReadError:
    message = f"`{path.name}` is a LoRA in GGUF with {len(names)} of {total} tensors quantized"
    help_ = (
        "PEFT does not read it, and what quantizing rounded away cannot be brought back: use it with llama.cpp, or go back to the adapter "
        "that it was made from"
    )
    data = {"cause": "gguf-quantized", "examples": names[:3]}
    return ReadError(Fault("foreign-format", message, help_, file=path.name, data=data))
