"""Other tools' adapters as PEFT's: one file per format, each giving plans that `repair` carries out and proves.

A conversion is exact or refused: names are mapped where they are known or the base singles them out, bytes are copied, transposed
or reordered, never computed; the factor of every update is the one that the source applies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint
    from loradoctor.checkpoint.convert.base_model import BaseModel
    from loradoctor.repair.plan import Plan

    Converter = Callable[[Checkpoint, Mapping[str, BaseModel]], dict[str, Plan]]

FORMATS = ("mlx", "torchtune", "kohya", "lycoris", "comfyui", "diffusers", "diffusers-pipeline", "gguf")
"""Formats of :mod:`loradoctor.checkpoint.foreign` for which there is a converter."""

_NUMBERS = (".alpha", ".scalar", ".on_input")
"""Endings of the tensors that are single numbers."""


def convert(checkpoint: Checkpoint, base: Path | None = None) -> Mapping[str, Plan]:
    """The plans that turn a foreign checkpoint into PEFT's format, by the directory below the output that each fills.

    ``""`` is the output itself; a file with several models of a pipeline gives one adapter each (``unet``, ``text_encoder``).
    ``base`` is the base model's directory or file. Empty when the checkpoint is not in one of :data:`FORMATS`. Raises OSError when
    ``base`` vanishes.
    """
    from loradoctor.checkpoint.convert import base_model

    name = checkpoint.foreign[0].name if checkpoint.foreign is not None else ""
    found = _converter(name)
    if found is None:
        return {}
    if hollow := [n for n, info in checkpoint.tensors.items() if 0 in info.shape or (not info.shape and not n.endswith(_NUMBERS))]:
        from loradoctor.repair.plan import Plan, Refusal

        return {"": Plan({}, (), {}, refusals=(Refusal(f"`{hollow[0]}` has no elements that an adapter could have"),))}
    return found(checkpoint, base_model.read(base) if base is not None else {})


def _converter(name: str) -> Converter | None:
    if name in ("kohya", "lycoris", "comfyui"):
        from loradoctor.checkpoint.convert.kohya import convert as converter
    elif name in ("diffusers", "diffusers-pipeline"):
        from loradoctor.checkpoint.convert.diffusers import convert as converter
    elif name == "mlx":
        from loradoctor.checkpoint.convert.mlx import convert as converter
    elif name == "torchtune":
        from loradoctor.checkpoint.convert.torchtune import convert as converter
    elif name == "gguf":
        from loradoctor.checkpoint.convert.gguf import convert as converter
    else:
        return None
    return converter
