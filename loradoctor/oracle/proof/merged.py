"""What `merge_and_unload` makes of the base, a few parameters at a time: PEFT merges every group of layers on its real weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ..model.anatomy import Refused
from ..model.isolated import needs_all_layers, reads_base_weights, rebuild
from ..model.load import ADAPTER, FROM_FILE
from ..model.prepared import Prepared
from ..model.units import group_names, group_parameters, materialised, plain, real_weights
from . import experts
from . import layers as layer_check


class NotMergeable(Exception):
    """PEFT does not merge this; the message is one clause for the user."""


@dataclass(frozen=True)
class Unit:
    """Parameters that change together. ``layers`` are full names of PEFT layers, ``names`` the model's names of the parameters."""

    layers: tuple[str, ...]
    names: tuple[str, ...]


def units(prepared: Prepared) -> Iterator[Unit]:
    """Everything that merging computes anew, in the order of the model."""
    for group in prepared.groups:
        names = [name for known in group_names(group, prepared.adapted, prepared.base).values() for name in known]
        yield Unit(tuple(group), tuple(dict.fromkeys(names)))


def merge(prepared: Prepared, unit: Unit, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """The parameters of ``unit`` in the merged model, by the model's names; buffers and biases included.

    PEFT's own ``merge`` on a copy of the layers with the base's weights, in the dtype of the files or in ``dtype`` (float64 for
    the exact merge). Raises :class:`NotMergeable`, and :class:`units.NoWeight` where the files lack a weight.
    """
    adapted = prepared.adapted
    config = prepared.model.peft_config[ADAPTER]
    for name in unit.layers:
        if not layer_check.merges(adapted[name]):
            raise NotMergeable(f"`{type(adapted[name]).__name__}` layers do not merge")
    if reason := needs_all_layers(config):
        raise NotMergeable(reason)
    group = list(unit.layers)
    real = real_weights(group, adapted, prepared.base, prepared.weights)
    with materialised(group_parameters(group, adapted), real), torch.no_grad():
        layers = {name: adapted[name] for name in group}
        if reads_base_weights(config):
            layers = {n: rebuild(n, layer, config, prepared.tensors, seed=0) for n, layer in layers.items()}
        copies = layer_check.copies(layers, dtype)
    found: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name, layer in copies.items():
            # Of a module whose parameters are adapted one by one, only those have values.
            only = set(layer_check.base_parameters(layer)) if experts.is_wrapper(layer) else None
            try:
                module = layer_check.unloaded(layer)
            except Refused as why:
                raise NotMergeable(str(why)) from why
            # A buffer of the phantom has no value; what stands for it here is none either.
            unknown = {key for key, b in layer_check.base_of(adapted[name]).named_buffers() if b.device.type == "meta"}
            state = {key: tensor for key, tensor in module.state_dict().items() if key not in unknown}
            found.update({f"{plain(name)}.{key}": tensor for key, tensor in state.items() if only is None or key in only})
    for layer in copies.values():
        _let_go(layer)
    return found


def _let_go(layer: nn.Module) -> None:
    # PEFT layers are reference cycles: without this their weights would wait for the garbage collector, gigabytes of them.
    for parameter in layer.parameters():
        parameter.data = parameter.data.new_empty(0)


def replaced(prepared: Prepared) -> dict[str, torch.Tensor]:
    """The parameters that the merged model takes from the adapter's file as they are: `modules_to_save`, biases, embeddings.

    By the model's names. Those that a unit merges on top of are not among them.
    """
    from peft.utils.other import ModulesToSaveWrapper

    inside = {key for group in prepared.groups for key in group_parameters(group, prepared.adapted)}
    found: dict[str, torch.Tensor] = {}
    for name, module in prepared.model.named_modules():
        if isinstance(module, ModulesToSaveWrapper) and ADAPTER in module.modules_to_save:
            state = module.modules_to_save[ADAPTER].state_dict()
            found.update({f"{plain(name)}.{key}": tensor for key, tensor in state.items()})
    for parameter in prepared.model.parameters():
        if getattr(parameter, FROM_FILE, False) and id(parameter) not in inside:
            # What modules_to_save has put in the place of a tied parameter is not that parameter any more.
            found = {**dict.fromkeys(prepared.base.names.get(id(parameter), ()), parameter.data), **found}
    return found
