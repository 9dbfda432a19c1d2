"""Memory that is not there: tensors of full size without a byte behind them, and which of them a result is made of.

What transformers does when it saves a model (rename, split, drop tied copies, cut into shards) depends on names, shapes and on
which tensors share memory, never on values. Run on blank tensors it tells all of that for the price of address space.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def blank(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """Zeros of ``shape`` with a storage of their own, which cannot be written and takes no memory until it is read."""
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return torch.empty(shape, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch asks whether the memory is writable; nobody writes
        return torch.frombuffer(_pages(size), dtype=dtype).view(shape)


def _pages(size: int) -> mmap.mmap:
    if hasattr(mmap, "MAP_PRIVATE"):
        # Private and read-only: the kernel reserves nothing for it, so a model larger than the machine is welcome.
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    return mmap.mmap(-1, size, access=mmap.ACCESS_READ)


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a tensor comes from: the names it is made of and, when it is no more than a view of one, which."""

    names: frozenset[str]
    view: tuple[int, tuple[int, ...], tuple[int, ...]] | None = None
    """storage offset, size and stride, in elements of the contiguous tensor it is a view of"""


class Tracing(TorchDispatchMode):  # type: ignore[misc]  # torch is not typed for this check
    """Within it, an operation on blank tensors that would copy gives another blank one, and its ancestry is remembered."""

    def __init__(self, named: Mapping[str, torch.Tensor]) -> None:
        """``named``: the contiguous blank tensors to trace."""
        super().__init__()
        self._origins: dict[int, tuple[frozenset[str], bool]] = {}
        # A storage that is freed could give its address to the next one.
        self._alive: list[torch.Tensor] = []
        for name, tensor in named.items():
            if _address(tensor) not in self._origins:
                self._know(tensor, frozenset({name}), original=True)

    def trace(self, tensor: torch.Tensor) -> Trace:
        """The origin of ``tensor``; without names when it has nothing to do with the named ones."""
        names, original = self._origins.get(_address(tensor), (frozenset(), False))
        view = (tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride())) if original else None
        return Trace(names, view)

    def _know(self, tensor: torch.Tensor, names: frozenset[str], *, original: bool) -> None:
        self._origins[_address(tensor)] = (names, original)
        self._alive.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [t for t in _tensors((args, kwargs)) if _address(t) in self._origins]
        if not given or _aliases(func):
            return func(*args, **kwargs)
        names = frozenset().union(*(self._origins[_address(t)][0] for t in given))
        made = func(*_mapped(args, _weightless), **_mapped({k: v for k, v in kwargs.items() if k != "device"}, _weightless))
        return _mapped(made, lambda tensor: self._stand_in(tensor, names))

    def _stand_in(self, tensor: torch.Tensor, names: frozenset[str]) -> torch.Tensor:
        if tensor.device.type != "meta":
            return tensor
        made = blank(torch.Size((tensor.untyped_storage().nbytes() // tensor.dtype.itemsize,)), tensor.dtype)
        self._know(made, names, original=False)
        return made.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _aliases(func: Any) -> bool:
    """Whether what ``func`` returns shares memory with its arguments."""
    return any(returned.alias_info is not None for returned in func._schema.returns)  # noqa: SLF001 -- torch has no other name for it


def _address(tensor: torch.Tensor) -> int:
    return 0 if tensor.device.type == "meta" else int(tensor.untyped_storage().data_ptr())


def _weightless(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(part, change) for part in value)
    if isinstance(value, dict):
        return {key: _mapped(part, change) for key, part in value.items()}
    return value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


@contextlib.contextmanager
def blanks(model: torch.nn.Module, dtypes: Mapping[str, torch.dtype]) -> Iterator[None]:
    """Give every parameter and buffer of ``model`` blank memory for the time of the block, in the dtype that its name has."""
    before: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    stored: list[tuple[torch.nn.Module, str, torch.Tensor | None]] = []
    seen: set[int] = set()
    try:
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            before.append((parameter, parameter.data))
            parameter.data = blank(parameter.shape, dtypes.get(name, parameter.dtype))
        for path, module in model.named_modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                full = f"{path}.{name}" if path else name
                stored.append((module, name, buffer))
                module._buffers[name] = blank(buffer.shape, dtypes.get(full, buffer.dtype))  # noqa: SLF001 -- keeps what is persistent
        yield
    finally:
        for parameter, data in before:
            parameter.data = data
        for module, name, original in stored:
            module._buffers[name] = original  # noqa: SLF001
