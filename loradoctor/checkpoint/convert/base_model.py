"""The base model as its files describe it: config, parameter names and shapes. No torch, no bytes of tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from loradoctor.checkpoint import weights
from loradoctor.checkpoint.fault import ReadError
from loradoctor.checkpoint.opening import opened

_PIPELINE = "model_index.json"
_CONFIG_LIMIT = 16 << 20
_DIFFUSION = "model.diffusion_model."
"""What precedes the names of the denoiser in a single file that holds a whole pipeline."""


@dataclass(frozen=True)
class BaseModel:
    """One model: ``shapes`` by parameter name, empty when there are no weights to read them from."""

    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @cached_property
    def modules(self) -> Mapping[str, tuple[int, ...]]:
        """Module path → shape of its weight, for weights that a low-rank update can be added to."""
        return {name.removesuffix(".weight"): s for name, s in self.shapes.items() if name.endswith(".weight") and len(s) > 1}

    @cached_property
    def paths(self) -> frozenset[str]:
        """Every module that has a parameter or holds one that does: PEFT compares all of them with `target_modules`."""
        found: set[str] = set()
        for name in self.shapes:
            module = name.rpartition(".")[0]
            while module and module not in found:
                found.add(module)
                module = module.rpartition(".")[0]
        return frozenset(found)

    @cached_property
    def flattened(self) -> Mapping[str, tuple[str, ...]]:
        """Module path with ``_`` for every dot → the modules that are written so."""
        found: dict[str, list[str]] = {}
        for module in self.modules:
            found.setdefault(module.replace(".", "_"), []).append(module)
        return {flat: tuple(modules) for flat, modules in found.items()}


def read(path: Path) -> dict[str, BaseModel]:
    """The models of ``path`` by their directory: ``""`` for one model, ``unet``, ``text_encoder``, … for a diffusers pipeline.

    Files that cannot be read are as if they were not there: whoever needs a name or a shape then says so.
    """
    if path.is_file():
        shapes = _shapes_of(path)
        inner = {n.removeprefix(_DIFFUSION): s for n, s in shapes.items() if n.startswith(_DIFFUSION)}
        return {"": BaseModel({}, inner or shapes)}
    if (path / _PIPELINE).is_file():
        parts = {p.name: p for p in sorted(path.iterdir()) if p.is_dir()}
        models = {name: BaseModel(config(part), dict(_all_shapes(part))) for name, part in parts.items()}
        return {name: model for name, model in models.items() if model.shapes}
    return {"": BaseModel(config(path), dict(_all_shapes(path)))}


def config(directory: Path) -> Mapping[str, Any]:
    """The ``config.json`` of a directory, empty when there is none that can be read."""
    try:
        with opened(directory / "config.json") as file:
            found = json.loads(file.read(_CONFIG_LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _all_shapes(directory: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    try:
        names = sorted(p.name for p in directory.iterdir() if p.is_file())
    except OSError:
        return
    stems = ("model", "diffusion_pytorch_model")
    chosen = [n for n in names if n.startswith(stems) and n.endswith(".safetensors")]
    if plain := [n for n in chosen if n.count(".") == 1]:
        chosen = plain  # beside `model.safetensors`, `model.fp16.safetensors` is the same model again
    for name in chosen or [n for n in names if n.startswith(("pytorch_model", *stems)) and n.endswith(".bin")]:
        yield from _shapes_of(directory / name).items()


def _shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        return {name: info.shape for name, info in weights.read(path).tensors.items()}
    except (ReadError, OSError):
        return {}
