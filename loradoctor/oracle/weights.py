"""The base's weights: which file holds which tensor, read one at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")


class BaseWeights:
    """The tensors of a base model's directory, found by the name that the model gives them."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files
        self._open: dict[Path, Any] = {}
        self._as_model: dict[str, str] | None = None

    @classmethod
    def at(cls, directory: Path) -> BaseWeights:
        """The weights in ``directory``; empty when it holds none. Raises OSError or ValueError for unreadable ones."""
        for name in INDEXES:
            if (directory / name).is_file():
                index = json.loads((directory / name).read_text(encoding="utf-8"))
                return cls({t: _inside(directory, f) for t, f in index["weight_map"].items()})
        for name in SINGLES:
            if (directory / name).is_file():
                weights = cls({})
                weights._files = dict.fromkeys(weights._names(directory / name), directory / name)
                return weights
        return cls({})

    def __bool__(self) -> bool:
        return bool(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def dtypes(self) -> set[torch.dtype]:
        """The dtype of the first floating tensor, as a set; empty for an empty file."""
        for name in self._files:
            dtype = self.read(name).dtype
            if dtype.is_floating_point:
                return {dtype}
        return set()

    def adopt(self, model: Any) -> None:
        """Learn how transformers renames this checkpoint's tensors when it loads them into ``model``."""
        rename = renamer(model)
        prefix = getattr(model, "base_model_prefix", "")
        known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self._as_model = {}
        for name in self._files:
            renamed = rename(name)
            for candidate in (renamed, f"{prefix}.{renamed}", renamed.removeprefix(f"{prefix}.")):
                if candidate in known:
                    self._as_model.setdefault(candidate, name)
                    break

    def find(self, names: Iterable[str], shape: torch.Size) -> torch.Tensor | None:
        """The tensor that the model knows under one of ``names``, or None; a tensor of another shape is not it."""
        table = self._as_model or {}
        for name in names:
            stored = table.get(name) or (name if name in self._files else None)
            if stored is not None:
                tensor = self.read(stored)
                return tensor if tensor.shape == shape else None
        return None

    def read(self, name: str) -> torch.Tensor:
        """The tensor stored under exactly ``name``."""
        path = self._files[name]
        tensor = self._handle(path).get_tensor(name) if path.suffix == ".safetensors" else self._handle(path)[name]
        return torch.as_tensor(tensor)

    def _names(self, path: Path) -> list[str]:
        return list(self._handle(path).keys())

    def _handle(self, path: Path) -> Any:
        if path not in self._open:
            if path.suffix == ".safetensors":
                from safetensors import safe_open

                self._open[path] = safe_open(str(path), framework="pt", device="cpu")
            else:
                self._open[path] = _load_bin(path)
        return self._open[path]


def _load_bin(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:
        # Files from before torch 1.6 are not zip archives and cannot be mapped.
        state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError(f"`{path.name}` is not a state dict")
    return state


def _inside(directory: Path, name: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"the index names a shard outside its directory: `{name}`")
    return directory / name


def renamer(model: Any) -> Callable[[str], str]:
    """How transformers renames a tensor of older releases when it loads it into ``model``."""
    steps: list[Callable[[str], str]] = []
    for pattern, replacement in (getattr(model, "_checkpoint_conversion_mapping", None) or {}).items():
        # The patterns are written for keys, the replacements for humans: transformers strips `^` and look-aheads too.
        plain = re.sub(r"\(.*\)", "", replacement.lstrip("^"))
        steps.append(lambda key, p=pattern, r=plain: re.sub(p, r, key, count=1))  # type: ignore[misc]
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming

        renamings = [t for t in get_model_conversion_mapping(model) if isinstance(t, WeightRenaming)]
        steps += [lambda key, t=t: t.rename_source_key(key)[0] for t in renamings]  # type: ignore[misc]
    except (ImportError, AttributeError, TypeError):
        # transformers before 5 has neither module; its renamings are the mapping above.
        pass

    def rename(key: str) -> str:
        for step in steps:
            key = step(key)
        return key

    return rename
