"""One file of weights, mapped into memory: what it holds, told without reading it, and its tensors in whole or by rows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

SAFE_PICKLES = (2, 6)
"""The torch from which on `weights_only=True` keeps its word: until then a legacy archive ran code all the same (CVE-2025-32434)."""
_ZIP = b"PK\x03\x04"
_LFS = b"version https://git-lfs"
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
"""a safetensors dtype → torch's name for it (safetensors/torch.py)"""
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
    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self._path = path
        self._file: Any = _guarded(path, lambda: safe_open(str(path), framework="pt", device="cpu"))
        self._names = dict.fromkeys(self._file.keys())

    def names(self) -> tuple[str, ...]:
        return tuple(self._names)

    def info(self, name: str) -> Stored:
        part = self._slice(name)
        dtype = getattr(torch, _DTYPES.get(part.get_dtype(), ""), None)
        if not isinstance(dtype, torch.dtype):
            raise WeightsError(f"`{name}` in `{self._path.name}` has the dtype {part.get_dtype()}, which this torch does not have")
        return Stored(dtype, torch.Size(part.get_shape()))

    def read(self, name: str) -> torch.Tensor:
        self._must_have(name)
        return torch.as_tensor(_guarded(self._path, lambda: self._file.get_tensor(name)))

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        part = self._slice(name)
        return torch.as_tensor(_guarded(self._path, lambda: part[start:stop]))

    def _slice(self, name: str) -> Any:
        self._must_have(name)
        return _guarded(self._path, lambda: self._file.get_slice(name))

    def _must_have(self, name: str) -> None:
        if name not in self._names:
            raise WeightsError(f"`{self._path.name}` has no tensor `{name}`")


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
    first = text.splitlines()[0] if text else "no reason given"
    return f"`{path.name}` cannot be read: {type(error).__name__}: {first}"
