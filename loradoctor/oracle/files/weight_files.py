"""Which files of a model's directory are its weights: the one file or the index that transformers or diffusers would read."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .instead import instead
from .tensor_file import WeightsError

_STEMS = (("model", ".safetensors"), ("diffusion_pytorch_model", ".safetensors"), ("pytorch_model", ".bin"), ("diffusion_pytorch_model", ".bin"))
"""what transformers and diffusers look for, safetensors first; of each the single file before the index"""
VARIANTS = ("", "fp16", "bf16", "fp32", "non_ema")
"""`variant=` of from_pretrained, the plain files first: repositories use no others"""
_INDEX_LIMIT = 200 * 2**20
"""bytes of an index: the largest models have some hundred thousand tensors, a hundred bytes each"""


@dataclass(frozen=True, slots=True)
class Layout:
    """Either ``single``, a file with all tensors, or the ``tensors`` of an index, tensor → file; neither when there are no weights."""

    single: Path | None = None
    tensors: Mapping[str, Path] = field(default_factory=dict)


def candidates() -> list[tuple[str, bool]]:
    """Names to look for in order, and whether each is an index."""
    return [
        (f"{stem}{_dotted(variant)}{ending}" if not index else f"{stem}{ending}.index{_dotted(variant)}.json", index)
        for variant in VARIANTS
        for stem, ending in _STEMS
        for index in (False, True)
    ]


def choose(names: Collection[str]) -> tuple[str | None, bool]:
    """The first of the candidates among ``names``, and whether it is an index; None without one."""
    return next(((name, index) for name, index in candidates() if name in names), (None, False))


def layout(directory: Path) -> Layout:
    """The weights in ``directory``. Raises :class:`WeightsError` for an index that cannot be followed."""
    name, index = choose([name for name, _ in candidates() if (directory / name).is_file()])
    if name is None:
        return Layout()
    return Layout(tensors=read_index(directory / name)) if index else Layout(single=directory / name)


def absent(directory: Path) -> str:
    """Why there are no weights in a model's directory, as a clause."""
    try:
        told = instead(path.name for path in directory.iterdir())
    except OSError as error:
        return f"the base's directory cannot be listed: {type(error).__name__}"
    return f"the base has no weights here{told or ' (only its config)'}"


def read_index(path: Path) -> dict[str, Path]:
    """``weight_map`` of a shard index, tensor → file beside it. Raises :class:`WeightsError`."""
    try:
        if path.stat().st_size > _INDEX_LIMIT:
            raise WeightsError(f"`{path.name}` is {path.stat().st_size:,} bytes long, which no index is")
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"`{path.name}` cannot be read: {type(error).__name__}: {str(error).splitlines()[0]}") from error
    table = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(table, dict) or not all(isinstance(file, str) and file for file in table.values()):
        raise WeightsError(f"`{path.name}` has no `weight_map` from tensors to files")
    shards = {file: _inside(path, file) for file in set(table.values())}
    return {tensor: shards[file] for tensor, file in table.items()}


def _inside(index: Path, name: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise WeightsError(f"the index names a shard outside its directory: `{name}`")
    return index.parent / name


def _dotted(variant: str) -> str:
    return f".{variant}" if variant else ""
