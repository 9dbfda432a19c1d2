"""A pickled state dict without unpickling it: tensors with their byte ranges, or the reason why it is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from loradoctor.checkpoint.fault import Fault, ReadError
from loradoctor.checkpoint.header import Header
from loradoctor.checkpoint.pickle import Opaque, Refused, Storage, Tensor, walk
from loradoctor.checkpoint.pickle_names import is_dangerous
from loradoctor.checkpoint.tensor import BITS, TensorInfo

Where = Callable[[Storage], tuple[int, int]]
_MODEL_LIBRARIES = frozenset({"torch", "peft", "transformers", "diffusers", "sentence_transformers", "collections", "__main__"})


def understood(path: Path, data: bytes) -> tuple[Any, tuple[str, ...]]:
    """What the pickle describes, and the names it mentions that we do not know. Raises :class:`ReadError` (LD502, LD506)."""
    try:
        value, strangers = walk(data)
    except Refused as refused:
        if _dangerous(refused.names):
            raise _unsafe(path, refused.names) from refused
        raise broken(path, f"holds a pickle that cannot be read: {refused}", "pickle") from refused
    if _dangerous(strangers):
        raise _unsafe(path, strangers)
    return value, strangers


def _dangerous(names: tuple[str, ...]) -> bool:
    return any(is_dangerous(n) for n in names)


def state_dict(path: Path, data: bytes, where: Where, *, unnest: bool = False) -> Header:
    """The tensors of a pickled state dict; ``where`` gives the byte range of a storage. Raises :class:`ReadError` (LD502, LD506, LD507).

    With ``unnest``, a state dict that is the only one inside another dict is taken out of it.
    """
    value, strangers = understood(path, data)
    if strangers and isinstance(value, Opaque) and value.what.partition(".")[0] not in _MODEL_LIBRARIES:
        raise _unsafe(path, strangers)
    if not isinstance(value, dict):
        what = value.what if isinstance(value, Opaque) else type(value).__name__
        raise _not_a_state_dict(path, f"holds a whole `{what}` object, not a state dict", "whole-object", strangers)
    inner = next((k for k, v in value.items() if isinstance(v, dict) and any(isinstance(t, Tensor) for t in v.values())), None)
    if inner is not None and unnest and _only(value, inner):
        value = value[inner]
    elif inner is not None and not any(isinstance(v, Tensor) for v in value.values()):
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


def _only(value: dict[Any, Any], inner: Any) -> bool:
    """Whether nothing beside ``inner`` holds tensors, neither at the top nor in a dict there."""
    return not any(
        isinstance(v, Tensor) or (isinstance(v, dict) and any(isinstance(t, Tensor) for t in v.values()))
        for k, v in value.items()
        if k != inner
    )


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
        raise broken(path, f"has fewer bytes than the tensor `{name}` needs", "truncated", key=name)
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


def broken(path: Path, what: str, cause: str, help_: str = "", *, key: str | None = None) -> ReadError:
    """The LD502 for a damaged `.bin`."""
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
