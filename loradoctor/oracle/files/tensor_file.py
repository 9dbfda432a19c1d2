"""One file of weights, mapped into memory: what it holds, told without reading it, and its tensors in whole or by rows."""

from __future__ import annotations

import json
import math
import mmap
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import torch

SAFE_PICKLES = (2, 6)
"""The torch from which on `weights_only=True` keeps its word: until then a legacy archive ran code all the same (CVE-2025-32434)."""
_ZIP = b"PK\x03\x04"
_LFS = b"version https://git-lfs"
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if platform.machine() in ("x86_64", "aarch64") else 0)
"""Python has the name since 3.13; the number is Linux's on these machines"""
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
"""a safetensors dtype → torch's name for it (safetensors/torch.py)"""
_RESTRICTED = re.compile(r"WeightsUnpickler error:\s*(.+)")
_GLOBAL = re.compile(r"(?:GLOBAL|global) `?([\w.]+)")


class WeightsError(ValueError):
    """Weights that cannot be had; the text is one clause for the user."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as its file describes it."""

    dtype: torch.dtype
    shape: torch.Size

    @property
    def nbytes(self) -> int:
        """Bytes of the values, without the header's share."""
        return int(math.prod(self.shape) * self.dtype.itemsize)


class TensorFile(Protocol):
    """What :class:`~.weights.BaseWeights` asks of a file. Everything raises :class:`WeightsError`."""

    def names(self) -> tuple[str, ...]:
        """The tensors in it."""

    def info(self, name: str) -> Stored:
        """Shape and dtype of one, from the header."""

    def read(self, name: str) -> torch.Tensor:
        """One tensor; its memory is the file's, mapped copy-on-write."""

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """``tensor[start:stop]`` of one with at least one dimension."""


def opened(path: Path) -> TensorFile:
    """The reader for ``path``, by its suffix. Raises :class:`WeightsError`."""
    try:
        if not path.is_file():
            raise WeightsError(f"`{path.name}` is not here")
        with path.open("rb") as file:
            start = file.read(len(_LFS))
    except (OSError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"`{path.name}` cannot be opened: {type(error).__name__}") from error
    if start == _LFS:
        raise WeightsError(f"`{path.name}` is a Git LFS pointer, not the weights: `git lfs pull` fetches them")
    if not start:
        raise WeightsError(f"`{path.name}` is empty")
    return _Safetensors(path) if path.suffix == ".safetensors" else _Pickle(path)


class _Safetensors:
    """The library checks the header, the mapping is our own.

    Its own (`torch.UntypedStorage.from_file`) counts as memory in use: a file larger than memory and swap together cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        def check() -> None:
            with safe_open(str(path), framework="np"):
                pass

        self._path = path
        _guarded(path, check)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self._entries: dict[str, Any] = json.loads(file.read(length))
            self._map = _mapped(file)
        self._entries.pop("__metadata__", None)
        self._start = 8 + length

    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def info(self, name: str) -> Stored:
        entry = self._entries.get(name)
        if entry is None:
            raise WeightsError(f"`{self._path.name}` has no tensor `{name}`")
        dtype = getattr(torch, _DTYPES.get(entry["dtype"], ""), None)
        if not isinstance(dtype, torch.dtype):
            raise WeightsError(f"`{name}` in `{self._path.name}` has the dtype {entry['dtype']}, which this torch does not have")
        return Stored(dtype, torch.Size(entry["shape"]))

    def read(self, name: str) -> torch.Tensor:
        stored = self.info(name)
        return self._tensor(name, stored, stored.shape, 0)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        stored = self.info(name)
        start, stop, _ = slice(start, stop).indices(stored.shape[0])
        shape = torch.Size((max(0, stop - start), *stored.shape[1:]))
        return self._tensor(name, stored, shape, start * (stored.nbytes // max(1, stored.shape[0])))

    def _tensor(self, name: str, stored: Stored, shape: torch.Size, skip: int) -> torch.Tensor:
        if not (count := math.prod(shape)):
            return torch.empty(shape, dtype=stored.dtype)
        offset = self._start + self._entries[name]["data_offsets"][0] + skip
        if self._map is not None:
            return torch.frombuffer(self._map, dtype=stored.dtype, count=count, offset=offset).view(shape)
        with self._path.open("rb") as file:
            file.seek(offset)
            data = bytearray(file.read(count * stored.dtype.itemsize))
        if len(data) < count * stored.dtype.itemsize:
            raise WeightsError(f"`{self._path.name}` ends before `{name}` does")
        return torch.frombuffer(data, dtype=stored.dtype).view(shape)


class _Pickle:
    """A `.bin`: restricted to tensors and containers by torch, and mapped unless it is from before torch 1.6."""

    def __init__(self, path: Path) -> None:
        if _release() < SAFE_PICKLES:
            raise WeightsError(f"`{path.name}` is a pickle, which torch {torch.__version__} does not read safely; torch 2.6 does")
        self._path = path
        self._state = _guarded(path, lambda: _unpickled(path))
        if not isinstance(self._state, dict):
            raise WeightsError(f"`{path.name}` is not a state dict")

    def names(self) -> tuple[str, ...]:
        return tuple(n for n, t in self._state.items() if isinstance(n, str) and isinstance(t, torch.Tensor))

    def info(self, name: str) -> Stored:
        tensor = self.read(name)
        return Stored(tensor.dtype, tensor.shape)

    def read(self, name: str) -> torch.Tensor:
        tensor = self._state.get(name)
        if not isinstance(tensor, torch.Tensor):
            raise WeightsError(f"`{self._path.name}` has no tensor `{name}`")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise WeightsError(f"`{name}` in `{self._path.name}` is no plain tensor")
        return tensor.detach()

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.read(name)[start:stop]


def _mapped(file: IO[bytes]) -> mmap.mmap | None:
    """All of ``file``, copied on write without memory set aside for it; None where that is refused, as by some network file systems."""
    try:
        if platform.system() == "Linux":
            return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | _NORESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError):
        return None


def _unpickled(path: Path) -> Any:
    with path.open("rb") as file:
        mapped = file.read(len(_ZIP)) == _ZIP
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _release() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except WeightsError:
        raise
    except Exception as error:  # safetensors and torch have two dozen types for a file that is not what it should be
        raise WeightsError(_why(path, error)) from error


def _why(path: Path, error: Exception) -> str:
    text = str(error).strip()
    if asked := _GLOBAL.search(text):
        return f"`{path.name}` asks for `{asked[1]}` when it is unpickled, which no weights need; it was not loaded"
    if "weights_only" in text:
        said = f" (`{match[1].strip()[:80]}`)" if (match := _RESTRICTED.search(text)) else ""
        return f"`{path.name}` is nothing that torch reads without running code{said}; it was not loaded"
    if "unable to mmap" in text:
        return f"`{path.name}` is larger than this machine's memory, and a pickle cannot be read in parts; safetensors can"
    first = text.splitlines()[0].split(". ")[0] if text else "no reason given"
    return f"`{path.name}` cannot be read: {type(error).__name__}: {first}"
