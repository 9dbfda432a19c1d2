"""Methods whose layers are computed from the base's weights when they are created: build them one at a time, for real."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ..proof import layers as layer_check
from .load import ADAPTER

# Their adapters hold a part; the rest is an SVD of the weight, made anew at every load.
FROM_BASE = frozenset({"ADAMSS", "FROD", "OSF", "PSOFT"})

# One decomposition over all layers of a kind, unless the file has its result: see needs_all_layers().
FROM_ALL_LAYERS = frozenset({"FROD"})

# LoRA initialisations that change the base weight when the layer is created (peft/tuners/lora/layer.py: *_init).
MUTATING_INIT = ("pissa", "olora", "corda", "loftq")

# These start from the base's weight or from data, but load as plain LoRA: starting from zeros instead saves the SVD.
PLAIN_AT_LOAD = ("mica", "lora_ga", "eva", "orthogonal")


def peft_type(config: Any) -> str:
    """The method's name as a plain string."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def mutating_init(config: Any) -> bool:
    """Whether creating this LoRA changes the base's weights."""
    init = getattr(config, "init_lora_weights", True)
    return isinstance(init, str) and init.lower().startswith(MUTATING_INIT)


def reads_base_weights(config: Any) -> bool:
    """Whether the layers of this adapter depend on the base's values, and not only on its shapes."""
    deferred = bool(getattr(config, "_loradoctor_init", None))
    return peft_type(config) in FROM_BASE or deferred or getattr(config, "kasa_config", None) is not None


def needs_all_layers(config: Any) -> str:
    """Why no layer of this adapter can be had without the weights of the others, as one clause; empty when each can."""
    # FRoD solves for one basis over all layers of a kind. A file that has the basis spares that: a layer's part is then a linear
    # system of its own.
    if peft_type(config) in FROM_ALL_LAYERS and not config.save_projection:
        return "FRoD decomposes the weights of all layers of a kind together, and the file lacks the result (`save_projection=False`)"
    return ""


def defer_init(config: Any) -> None:
    """Make creation on a phantom base cheap; the initialisation that reads the base is kept for :func:`rebuild`."""
    init = getattr(config, "init_lora_weights", None)
    if not isinstance(init, str):
        return
    if mutating_init(config) and not init.lower().startswith(("corda", "loftq")):
        config._loradoctor_init = init  # noqa: SLF001 -- our mark on the config object of this process
        config.init_lora_weights = True
    elif init.lower().startswith(PLAIN_AT_LOAD):
        config.init_lora_weights = True


def rebuild(name: str, layer: nn.Module, config: Any, tensors: dict[str, torch.Tensor], *, seed: int) -> nn.Module:
    """The PEFT layer called ``name``, created by PEFT on a module that has its weights, with the adapter's tensors.

    ``layer`` is the layer on the base whose weights are real for the moment. Whatever PEFT raises is passed on.
    """
    import peft

    if peft_type(config) in FROM_ALL_LAYERS:
        return _on_saved_basis(name, layer)
    module = name.removeprefix("base_model.model.")
    root = nn.Module()
    parent = root
    *path, leaf = module.split(".")
    for part in path:
        parent.add_module(part, nn.Module())
        parent = parent.get_submodule(part)
    parent.add_module(leaf, copy.deepcopy(layer_check.base_of(layer)))
    own = copy.deepcopy(config)
    own.init_lora_weights = getattr(config, "_loradoctor_init", getattr(config, "init_lora_weights", True))
    own.target_modules = [module]
    for restriction in ("exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "trainable_token_indices"):
        if hasattr(own, restriction):
            setattr(own, restriction, None)
    torch.manual_seed(seed)
    model = peft.PeftModel(root, own, adapter_name=ADAPTER)
    prefix = f"base_model.model.{module}."
    peft.set_peft_model_state_dict(
        model, {k: v for k, v in tensors.items() if k.startswith(prefix)}, adapter_name=ADAPTER
    )
    model.eval()
    return model.get_submodule(name)


def _on_saved_basis(name: str, layer: nn.Module) -> nn.Module:
    # As FrodLayer.update_layer, with the basis that the file holds instead of one decomposed anew from all layers.
    made: Any = layer_check.copies({name: layer}, None)[name]
    weight = made.get_base_layer().weight.data
    weight = weight.T if made.fan_in_fan_out else weight
    for adapter, basis in made.frod_V.items():
        left, _ = made._calculate_frod_u_and_lambda(basis.to(weight.dtype), weight)  # noqa: SLF001 -- there is no other way in
        made.frod_U[adapter] = left.to(weight.dtype)
    assert isinstance(made, nn.Module)  # noqa: S101 -- a copy of one
    return made
