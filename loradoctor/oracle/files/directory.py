"""The directory that is said to hold a merged model: what it really holds, and which of its files can be read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .tensor_file import WeightsError, opened
from .weight_files import layout
from .weights import BaseWeights


@dataclass
class Merged:
    """``cause`` says why there is nothing to audit (see :func:`read`), ``torn`` which files could not be read: (file, reason, tensors)."""

    weights: BaseWeights
    config: dict[str, Any] | None
    cause: str = ""
    reason: str = ""
    torn: list[tuple[str, str, int]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """tensors that should be in those files"""
    adapter_config: bool = False
    part: str = ""
    """where it is within a pipeline's directory"""


def read(directory: Path) -> Merged:
    """What lies in ``directory``. ``cause``: ``empty``, ``adapter``, ``gguf``, ``no-index``, ``unreadable`` or ``quantized``."""
    config = _config(directory / "config.json")
    beside = (directory / "adapter_config.json").is_file()
    try:
        found = layout(directory)
    except WeightsError as error:
        return Merged(BaseWeights({}), config, "unreadable", str(error), adapter_config=beside)
    table: dict[str, Path] = dict(found.tensors)
    torn: list[tuple[str, str, int]] = []
    lost: list[str] = []
    for file in dict.fromkeys([found.single] if found.single else table.values()):
        expected = [name for name, place in table.items() if place == file]
        try:
            names = set(opened(file).names())
        except WeightsError as error:
            torn.append((file.name, str(error), len(expected)))
            lost += expected
            names = set()
        if found.single:
            table = dict.fromkeys(names, file)
        elif names and (absent := [name for name in expected if name not in names]):
            torn.append((file.name, f"`{file.name}` lacks {len(absent)} tensors that the index promises", len(absent)))
            lost += absent
        table = {name: place for name, place in table.items() if place != file or name in names}
    weights = BaseWeights(table)
    merged = Merged(weights, config, torn=torn, lost=lost, adapter_config=beside)
    if not table and not torn:
        merged.cause, merged.reason = _nothing(directory, beside=beside)
        return merged
    try:
        if name := _quantized(merged):
            merged.cause, merged.reason = "quantized", f"its weights are quantized ({name})"
    except WeightsError as error:
        merged.cause, merged.reason = "unreadable", str(error)
    return merged


def _config(path: Path) -> dict[str, Any] | None:
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return raw if isinstance(raw, dict) else None


def _nothing(directory: Path, *, beside: bool) -> tuple[str, str]:
    files = sorted(entry.name for entry in directory.iterdir())
    if beside or any(name.startswith("adapter_model.") for name in files):
        return "adapter", "it holds an adapter, not a merged model"
    if gguf := next((name for name in files if name.endswith(".gguf")), None):
        return "gguf", f"it holds `{gguf}`; a GGUF file has no weights to compare: audit the directory that it was converted from"
    if loose := next((name for name in files if name.endswith((".safetensors", ".bin"))), None):
        return "no-index", f"`{loose}` is there, and neither an index nor a file of the name that transformers looks for"
    return "empty", "there are no weights in it"


def _quantized(merged: Merged) -> str:
    """How the weights of the merged model are quantized, ``""`` when they are not; its config may say so and be wrong."""
    for name in merged.weights.names():
        stored = merged.weights.info(name)
        if name.endswith((".qweight", ".weight_packed", ".absmax", ".quant_map")):
            return f"`{name}`"
        if len(stored.shape) >= 2 and stored.dtype.itemsize == 1 and stored.dtype != torch.bool:
            return str(stored.dtype).removeprefix("torch.")
    return ""
