"""A pickled state dict without unpickling it: tensors with their byte ranges, or the reason why it is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loradoctor.checkpoint.fault import Fault, ReadError
from loradoctor.checkpoint.header import Header
from loradoctor.checkpoint.pickle import Opaque, Refused, Storage, Tensor, walk
from loradoctor.checkpoint.pickle_names import is_dangerous
from loradoctor.checkpoint.tensor import BITS, TensorInfo

Where = Callable[[Storage], tuple[int, int]]
_MODEL_LIBRARIES = frozenset({"torch", "peft", "transformers", "diffusers", "sentence_transformers", "collections", "__main__"})


_NUMPY = ("numpy.core.multiarray.", "numpy._core.multiarray.", "numpy.ndarray", "numpy.dtype", "_codecs.encode")
_DEPTH = 4
"""How many dicts deep a model's state is looked for: `state`, `model`, `module` are three."""


def understood(path: Path, data: bytes) -> tuple[Any, tuple[str, ...]]:
    """What the pickle describes, and the names it mentions that we do not know. Raises :class:`ReadError` (LD502, LD506)."""
    try:
        value, strangers = walk(data)
    except Refused as refused:
        if _dangerous(refused.names):
            raise _unsafe(path, refused.names) from refused
        if refused.names and all(n.startswith("torch.") for n in refused.names):
            raise not_a_state_dict(path, f"is no state dict: {refused}", "special-tensors", refused.names) from refused
        raise broken(path, f"holds a pickle that cannot be read: {refused}", "pickle") from refused
    if _dangerous(strangers):
        raise _unsafe(path, strangers)
    return value, strangers


def _dangerous(names: tuple[str, ...]) -> bool:
    return any(is_dangerous(n) for n in names)


def state_dict(path: Path, data: bytes, where: Where, *, unnest: bool = False) -> Header:
    """The tensors of a pickled state dict; ``where`` gives the byte range of a storage. Raises :class:`ReadError` (LD502, LD506, LD507).

    With ``unnest``, a state dict that is the only one inside other dicts is taken out of them.
    """
    value, strangers = understood(path, data)
    if strangers and isinstance(value, Opaque) and value.what.partition(".")[0] not in _MODEL_LIBRARIES:
        raise _unsafe(path, strangers)
    if not isinstance(value, dict):
        what = value.what if isinstance(value, Opaque) else type(value).__name__
        raise not_a_state_dict(path, f"holds a whole `{what}` object, not a state dict", "whole-object", strangers)
    if not _has_tensors(value) and (homes := list(_homes(value))):
        if len(homes) > 1 or not unnest:
            key = ".".join(homes[0])
            raise not_a_state_dict(path, f"holds the state dict under the key `{key}`", "nested-state-dict", strangers)
        for key in homes[0]:
            value = value[key]
    if strangers and all(s.startswith(_NUMPY) for s in strangers):
        raise not_a_state_dict(path, "holds NumPy arrays, not tensors", "numpy-arrays", strangers)
    if strangers and all(s.startswith("torch.") for s in strangers):
        raise not_a_state_dict(path, f"holds more than plain tensors: `{strangers[0]}`", "special-tensors", strangers)
    if strangers:
        raise _unsafe(path, strangers)
    tensors: dict[str, TensorInfo] = {}
    for name, tensor in value.items():
        if isinstance(tensor, Tensor):
            shown = _name(name)
            tensors[shown] = _info(path, shown, tensor, where(tensor.storage))
    if value and not tensors:
        raise not_a_state_dict(path, "holds no tensors, only other values", "no-tensors", strangers)
    return Header(tensors, {})


def _name(key: object) -> str:
    """A key as text; Python refuses to write out integers of thousands of digits."""
    return f"<{key.bit_length()} bits>" if isinstance(key, int) and key.bit_length() > 64 else str(key)


def _has_tensors(value: dict[Any, Any]) -> bool:
    return any(isinstance(v, Tensor) and isinstance(k, str) for k, v in value.items())


def _homes(value: dict[Any, Any], above: tuple[str, ...] = (), seen: set[tuple[int, int]] | None = None) -> Iterator[tuple[str, ...]]:
    """Where in nested dicts the state dicts of models are: their keys from the outside in. An optimizer's state is none.

    A dict that stands under many keys is entered once per depth: paths can be more than anybody has time for.
    """
    seen = set() if seen is None else seen
    if (id(value), len(above)) in seen:
        return
    seen.add((id(value), len(above)))
    if above and _has_tensors(value):
        yield above
    elif len(above) < _DEPTH:
        for key, inner in value.items():
            if isinstance(key, str) and isinstance(inner, dict) and "optim" not in key:
                yield from _homes(inner, (*above, key), seen)


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
            data={"cause": "unsafe-global", "globals": listed[:20]},
        )
    )


def not_a_state_dict(path: Path, what: str, cause: str, strangers: tuple[str, ...]) -> ReadError:
    """The LD507 for a `.bin` that holds something else."""
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
