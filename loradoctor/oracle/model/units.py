"""The adapted modules of a model on a phantom base, grouped by the weights they share, and real weights for one group at a time."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..files.weights import BaseWeights, WeightsError
from ..proof import quantized
from ..proof.layers import base_parameters
from .base import Base, hollow
from .load import FROM_FILE
from .loading import Loading

_fused: WeakKeyDictionary[BaseWeights, Loading] = WeakKeyDictionary()
"""what transformers makes of files whose tensors are not the model's parameters one by one"""


class NoWeight(Exception):
    """A weight that the group needs is not to be had; the message is one clause for the user."""


def adapted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every PEFT layer of ``model`` that holds an adapter, by its full name; outermost of nested ones only."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, BaseTunerLayer) and module is not model and not inside and hasattr(module, "base_layer"):
            found[name] = module
    return found


def plain(name: str) -> str:
    """The module's name in the base model."""
    return name.removeprefix("base_model.model.").removesuffix(".token_adapter")


def users_of_weights(model: nn.Module, adapted: dict[str, nn.Module]) -> dict[int, set[str]]:
    """``id`` of every adapted base parameter → names of the modules that compute with it."""
    # Listed first: PEFT's attention layers make new parameters of the old whenever modules are listed.
    modules = list(model.named_modules())
    own = {name: base_parameters(layer) for name, layer in adapted.items()}
    users: dict[int, set[str]] = {}
    for name, parameters in own.items():
        for parameter in parameters.values():
            users.setdefault(id(parameter), set()).add(name)
    for name, module in modules:
        # The frozen original under modules_to_save computes nothing, so it is not a user.
        if any(name == outer or name.startswith(f"{outer}.") for outer in adapted) or ".original_module" in name:
            continue
        for parameter in module.parameters(recurse=False):
            if id(parameter) in users:
                users[id(parameter)].add(name)
    return users


def groups(adapted: dict[str, nn.Module], users: dict[int, set[str]]) -> Iterator[list[str]]:
    """Adapted layers that share weights, together; most groups have one."""
    done: set[str] = set()
    for name in adapted:
        if name in done:
            continue
        group, waiting = [], [name]
        while waiting:
            current = waiting.pop()
            if current in done or current not in adapted:
                continue
            done.add(current)
            group.append(current)
            for parameter in base_parameters(adapted[current]).values():
                waiting += sorted(users.get(id(parameter), set()) - done)
        yield sorted(group, key=list(adapted).index)


def bystanders_of(group: list[str], adapted: dict[str, nn.Module], users: dict[int, set[str]]) -> list[str]:
    """Modules without an adapter that compute with a weight of the group: merging changes them as well."""
    shared = [users.get(id(p), set()) for name in group for p in base_parameters(adapted[name]).values()]
    token_wrapper = any(name.endswith(".token_adapter") for name in group)
    # Trained tokens are rows of the tied matrix on both sides: PEFT gives both modules the same rows.
    return [] if token_wrapper else sorted({u for s in shared for u in s if u not in adapted})


def real_weights(
    group: list[str], adapted: dict[str, nn.Module], base: Base, weights: BaseWeights
) -> dict[int, torch.Tensor]:
    """``id(parameter)`` → what the base's files hold for it, for every parameter that ``group`` adapts.

    What the adapter's own file has replaced is left out: it is real already. Raises :class:`NoWeight`.
    """
    parameters = group_parameters(group, adapted)
    names = group_names(group, adapted, base)
    real: dict[int, torch.Tensor] = {}
    for key, parameter in parameters.items():
        if getattr(parameter, FROM_FILE, False):
            continue
        try:
            tensor = find(names[key], parameter.shape, base, weights)
        except WeightsError as why:
            raise NoWeight(str(why)) from why
        if tensor is None:
            raise NoWeight(f"the base's files have no weight for `{names[key][0]}`")
        if not tensor.dtype.is_floating_point or tensor.element_size() < 2:
            raise NoWeight(f"the base is quantized ({tensor.dtype})")
        real[key] = tensor
    return real


def find(names: Sequence[str], shape: torch.Size, base: Base, weights: BaseWeights) -> torch.Tensor | None:
    """The base's tensor for the parameter that has ``names``, put together as transformers does; None when there is none.

    One in few bits comes as float32, with the mark of :mod:`quantized`. Raises :class:`weights.WeightsError`.
    """
    tensor = weights.find(names, shape)
    ordinary = tensor is not None and tensor.dtype.is_floating_point and tensor.element_size() > 1
    if ordinary or not isinstance(weights, BaseWeights):
        return tensor
    values = quantized.find(weights, names, shape)
    if values is not None or tensor is not None:
        return tensor if values is None else values
    return _loading(base, weights).find(names, shape)


def _loading(base: Base, weights: BaseWeights) -> Loading:
    if weights not in _fused:
        # On a base without adapter: its state dict is what transformers loads into.
        _fused[weights] = Loading(weights, base.again().model, {})
    return _fused[weights]


def experts_source(
    names: Sequence[str], shape: torch.Size, base: Base, weights: BaseWeights
) -> Callable[[slice], torch.Tensor] | None:
    """How to read some experts of the parameter that has ``names`` at a time; None when it can only be read as a whole.

    What is returned raises :class:`weights.WeightsError`.
    """
    if not isinstance(weights, BaseWeights) or weights.stored_as(names) is not None:
        return None
    loading = _loading(base, weights)
    for name in names:
        if loading.stacked(name) == shape[0]:
            return functools.partial(loading.experts, name)
    return None


def group_parameters(group: list[str], adapted: dict[str, nn.Module]) -> dict[int, nn.Parameter]:
    """The base parameters that ``group`` adapts, by identity."""
    return {id(p): p for name in group for p in base_parameters(adapted[name]).values()}


def group_names(group: list[str], adapted: dict[str, nn.Module], base: Base) -> dict[int, tuple[str, ...]]:
    """``id(parameter)`` → its names in the base model, for the parameters of :func:`group_parameters`."""
    # A parameter of PEFT's attention layers is another object by now; its place in the model is the same.
    return {
        id(parameter): base.names.get(id(parameter)) or (f"{plain(name)}.{own}",)
        for name in group
        for own, parameter in base_parameters(adapted[name]).items()
    }


@contextlib.contextmanager
def materialised(parameters: dict[int, nn.Parameter], real: dict[int, torch.Tensor]) -> Iterator[None]:
    """Give ``parameters`` the ``real`` values for the time of the block; afterwards they are stand-ins again."""
    try:
        for key, tensor in real.items():
            parameters[key].data = tensor
        yield
    finally:
        for key, tensor in real.items():
            parameters[key].data = hollow(tensor.shape, tensor.dtype)
