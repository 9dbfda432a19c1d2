"""An adapter that PEFT has loaded onto the phantom of its base, with the base's files at hand: where every examination starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn

from ..files.weights import BaseWeights, WeightsError, absent
from . import units
from .base import Base, build
from .isolated import defer_init
from .load import Outcome, load

Progress = Callable[[str], None]


@dataclass
class Prepared:
    """``model`` is None when PEFT refused the adapter; ``outcome`` says what happened to every tensor."""

    directory: str
    raw: dict[str, Any]
    """the adapter's config as its file has it"""
    base: Base
    model: Any
    outcome: Outcome
    weights: BaseWeights
    """the base's files; empty when they were not asked for or cannot be used, which ``weights_error`` explains"""
    weights_error: str = ""

    @cached_property
    def adapted(self) -> dict[str, nn.Module]:
        """The PEFT layers of the model by full name."""
        return units.adapted_layers(self.model)

    @cached_property
    def users(self) -> dict[int, set[str]]:
        """``id`` of every adapted base parameter → names of the modules that compute with it."""
        return units.users_of_weights(self.model, self.adapted)

    @cached_property
    def groups(self) -> list[list[str]]:
        """Adapted layers that share weights, together."""
        return list(units.groups(self.adapted, self.users))

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The adapter's state dict."""
        from peft.utils.save_and_load import load_peft_weights

        return dict(load_peft_weights(self.directory, device="cpu"))


def start(request: dict[str, Any], progress: Progress) -> Base:
    """The phantom base that ``request`` means. Raises :class:`base.Unbuildable`."""
    progress("building the base model from its config")
    return build(
        request["base"],
        adapter_config(request["adapter"]),
        online=bool(request.get("online")),
        num_labels=request.get("num_labels"),
        modules=request.get("modules", ()),
    )


def prepare(request: dict[str, Any], base: Base, *, weights: bool, progress: Progress) -> Prepared:
    """Load the request's adapter onto ``base``, and find the base's files when its ``weights`` are wanted."""
    directory = request["adapter"]
    raw = adapter_config(directory)
    found, error = _weights(request, base, progress) if weights else (BaseWeights({}), "")
    progress("loading it with PeftModel.from_pretrained")
    model, outcome = load_adapter(base, directory)
    return Prepared(directory, raw, base, model, outcome, found, error)


def adapter_config(directory: str) -> dict[str, Any]:
    """The object in ``adapter_config.json``. Raises OSError or ValueError."""
    return dict(json.loads((Path(directory) / "adapter_config.json").read_text(encoding="utf-8-sig")))


def disarm(config: Any) -> None:
    """Take from an adapter's config what would make PEFT import a module that the config names."""
    # peft/tuners/lora/tp_layer.py imports `megatron_core` by name when `megatron_config` is set; an adapter is somebody's upload.
    if getattr(config, "megatron_config", None):
        config.megatron_config = None


def quantization(base: Base) -> str | None:
    """How the base is quantized by its own config, None when it is not."""
    own = base.model.config
    # Composite models keep it with the part that is quantized; releases of compressed-tensors before 0.6 called it otherwise.
    for config in (own, *(getattr(own, part, None) for part in getattr(own, "sub_configs", ()))):
        for field in ("quantization_config", "compression_config"):
            found = getattr(config, field, None)
            if found:
                return _method(found if isinstance(found, dict) else vars(found))
    return None


def _method(config: dict[str, Any]) -> str:
    name = config.get("quant_method")
    # The first releases that could be saved in few bits did not say whose bits they are.
    unnamed = "bitsandbytes" if config.get("load_in_4bit") or config.get("load_in_8bit") else "compressed-tensors"
    return str(getattr(name, "value", name) or unnamed)


def load_adapter(base: Base, directory: str) -> tuple[Any, Outcome]:
    """PEFT's model of the adapter in ``directory`` on ``base``, None when PEFT refuses it, and what became of every tensor."""
    try:
        config = peft.PeftConfig.from_pretrained(directory)
    except Exception as error:  # noqa: BLE001 -- a config that PEFT refuses is an outcome
        return None, Outcome(error_type=type(error).__name__, error=str(error).strip())
    defer_init(config)
    disarm(config)
    return load(base, directory, config)


def _weights(request: dict[str, Any], base: Base, progress: Progress) -> tuple[BaseWeights, str]:
    if name := quantization(base):
        return BaseWeights({}), f"the base is quantized ({name}), and its weights are only read by the library that wrote them"
    try:
        directory = Path(request["base"]) / base.part
        weights = BaseWeights.at(directory, online=bool(request.get("online")), progress=progress)
        if not weights:
            return weights, absent(directory)
        weights.adopt(base.model)
        dtypes = weights.dtypes(request.get("modules", ()))
    except WeightsError as why:
        return BaseWeights({}), f"the base's weights cannot be had: {why}"
    if dtypes:
        store_as(base, next(iter(dtypes)))
    return weights, ""


def store_as(base: Base, dtype: torch.dtype) -> None:
    """Let the phantom's floating parameters be of ``dtype``: PEFT adapts in the dtype of the base."""
    for parameter in base.model.parameters():
        if parameter.dtype.is_floating_point:
            parameter.data = parameter.data[(0,) * parameter.dim()].to(dtype).expand(parameter.shape)
