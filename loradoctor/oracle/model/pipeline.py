"""Diffusion pipelines: the part of one that an adapter is for, and what `load_lora_weights` makes of the adapter."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

INDEX = "model_index.json"
PARTS = ("unet", "transformer", "transformer_2", "prior", "text_encoder", "text_encoder_2", "text_encoder_3")
"""the parts of a pipeline that LoRAs are trained for, the likeliest first"""


class NoPipeline(Exception):
    """There is nothing that diffusers could load the adapter into; the message says why."""


@dataclass(frozen=True)
class Pipeline:
    """A pipeline's directory, its class, and how each of its parts is made on the meta device."""

    directory: Path
    class_name: str
    parts: dict[str, Callable[[], nn.Module]]


def at(reference: str) -> Pipeline | None:
    """The pipeline in the directory ``reference``, None when there is none. Raises OSError or ValueError for a broken index.

    Only classes of diffusers and transformers are looked up; a pipeline that brings its own code has no parts.
    """
    directory = Path(reference)
    if not (directory / INDEX).is_file():
        return None
    index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
    if not isinstance(index, dict):
        raise ValueError(f"`{INDEX}` is not an object")
    parts = {}
    for name in PARTS:
        entry = index.get(name)
        if isinstance(entry, list) and len(entry) == 2 and (directory / name / "config.json").is_file():
            parts[name] = _maker(str(entry[0]), str(entry[1]), directory / name)
    return Pipeline(directory, str(index.get("_class_name")), parts)


def _maker(library: str, class_name: str, directory: Path) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        found = getattr(_library(library), class_name, None)
        if not isinstance(found, type) or not issubclass(found, nn.Module):
            raise ValueError(f"`{library}` has no model class `{class_name}`")
        cls: Any = found
        raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        with torch.device("meta"):
            made: nn.Module = cls.from_config(raw) if library == "diffusers" else cls(cls.config_class(**raw))
        return made

    return make


def _library(name: str) -> Any:
    if name in ("diffusers", "transformers"):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise ImportError(f"`{name}` is not installed") from error
    raise ValueError(f"its parts are made by `{name}`, which is never imported")


def load(pipeline: Pipeline, directory: str, stand_in: Callable[[nn.Module], nn.Module]) -> int:
    """How many tensors `load_lora_weights` puts into the pipeline. Raises :class:`NoPipeline`, and what diffusers raises."""
    try:
        cls: Any = getattr(_library("diffusers"), pipeline.class_name, None)
    except ImportError as error:
        raise NoPipeline(str(error)) from error
    if not hasattr(cls, "load_lora_weights"):
        raise NoPipeline(f"`{pipeline.class_name}` has no `load_lora_weights`")
    made = {name: stand_in(make()) for name, make in pipeline.parts.items()}
    try:
        pipe = cls(**_arguments(cls, made))
    except Exception as error:
        raise NoPipeline(f"`{pipeline.class_name}` cannot be put together from its configs: {type(error).__name__}") from error
    before = {id(p) for part in made.values() for p in part.parameters()}
    pipe.load_lora_weights(directory, local_files_only=True)
    return sum(id(p) not in before for part in made.values() for p in part.parameters())


def _arguments(cls: Any, made: dict[str, nn.Module]) -> dict[str, Any]:
    """The parts, None for everything else that has no default."""
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name in made:
            given[name] = made[name]
        elif name == "requires_safety_checker":
            given[name] = False
        elif name != "self" and parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            given[name] = None
    return given
