"""Walk the adapter's modules, give each its base weights for a moment, and compare merged with unmerged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from . import layers as layer_check
from .base import Base, hollow
from .isolated import FROM_ALL_LAYERS, peft_type, reads_base_weights, rebuild
from .load import ADAPTER, FROM_FILE
from .weights import BaseWeights

Progress = Callable[[str], None]


def examine(
    model: Any, base: Base, weights: BaseWeights, tensors: dict[str, torch.Tensor], progress: Progress
) -> list[dict[str, Any]]:
    """One :class:`layers.Merge` as JSON per adapted module of ``model``, which stands on a phantom base.

    ``tensors`` is the adapter's state dict; ``weights`` has adopted the base model.
    """
    adapted = adapted_layers(model)
    users = users_of_weights(model, adapted)
    found: list[dict[str, Any]] = []
    for number, group in enumerate(groups(adapted, users), 1):
        progress(f"merging module {number} of {len(adapted)}")
        bystanders = bystanders_of(group, adapted, users)
        for result in _examine_group(model, group, adapted, bystanders, base, weights, tensors):
            record = result.as_json()
            record["module"] = plain(result.module)
            record["shared_with"] = [plain(name) for name in result.shared_with]
            found.append(record)
    return found


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
    # The frozen original under modules_to_save computes nothing, so it is not a user.
    own = {name: base_parameters(layer) for name, layer in adapted.items()}
    users: dict[int, set[str]] = {}
    for name, parameters in own.items():
        for parameter in parameters.values():
            users.setdefault(id(parameter), set()).add(name)
    for name, module in model.named_modules():
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
                waiting += sorted(users[id(parameter)] - done)
        yield sorted(group, key=list(adapted).index)


def bystanders_of(group: list[str], adapted: dict[str, nn.Module], users: dict[int, set[str]]) -> list[str]:
    """Modules without an adapter that compute with a weight of the group: merging changes them as well."""
    shared = [users[id(p)] for name in group for p in base_parameters(adapted[name]).values()]
    token_wrapper = any(name.endswith(".token_adapter") for name in group)
    # Trained tokens are rows of the tied matrix on both sides: PEFT gives both modules the same rows.
    return [] if token_wrapper else sorted({u for s in shared for u in s if u not in adapted})


def base_parameters(layer: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the module that ``layer`` adapts."""
    return dict(layer_check.base_of(layer).named_parameters())


def _examine_group(
    model: Any,
    group: list[str],
    adapted: dict[str, nn.Module],
    bystanders: list[str],
    base: Base,
    weights: BaseWeights,
    tensors: dict[str, torch.Tensor],
) -> list[layer_check.Merge]:
    if not all(layer_check.merges(adapted[name]) for name in group):
        reason = f"`{type(adapted[group[0]]).__name__}` layers do not merge"
        return [layer_check.Merge(name, "unmergeable", reason) for name in group]
    config = model.peft_config[ADAPTER]
    if peft_type(config) in FROM_ALL_LAYERS:
        reason = f"{peft_type(config)} decomposes the weights of all layers together; they cannot be merged one at a time"
        return [layer_check.Merge(name, "not-run", reason) for name in group]
    try:
        for name in group:
            layer_check.probe(adapted[name])
    except layer_check.CannotProbe as why:
        return [layer_check.Merge(name, "not-run", str(why)) for name in group]
    parameters = {id(p): p for name in group for p in base_parameters(adapted[name]).values()}
    real: dict[int, torch.Tensor] = {}
    for key, parameter in parameters.items():
        if getattr(parameter, FROM_FILE, False):
            continue
        tensor = weights.find(base.names.get(key, ()), parameter.shape)
        if tensor is None:
            known = (base.names.get(key) or ("?",))[0]
            return [layer_check.Merge(name, "not-run", f"the base's files have no weight for `{known}`") for name in group]
        if not tensor.dtype.is_floating_point or tensor.element_size() < 2:
            return [layer_check.Merge(name, "not-run", f"the base is quantized ({tensor.dtype})") for name in group]
        real[key] = tensor
    with _materialised(parameters, real):
        if not reads_base_weights(config):
            return layer_check.examine({name: adapted[name] for name in group}, bystanders)
        results: list[layer_check.Merge] = []
        for name in group:
            results += _isolated(name, adapted[name], config, tensors, bystanders)
        return results


def _isolated(
    name: str, layer: nn.Module, config: Any, tensors: dict[str, torch.Tensor], bystanders: list[str]
) -> list[layer_check.Merge]:
    try:
        first, second = (rebuild(name, layer, config, tensors, seed=seed) for seed in (0, 1))
    except Exception as error:  # noqa: BLE001 -- PEFT's own initialisation on this base failed: that is the result
        text = str(error).strip().split("\n")[0]
        return [layer_check.Merge(name, "not-run", f"PEFT could not rebuild it on the base: {type(error).__name__}: {text}")]
    results = layer_check.examine({name: first}, bystanders)
    probe = tuple(p.float() if p.is_floating_point() else p for p in layer_check.probe(first))
    with torch.no_grad():
        one, other = first.float()(*probe), second.float()(*probe)
    drift = float((one - other).abs().max() / one.abs().max().clamp_min(1e-30))
    # Two builds from the same files: what differs between them is not in the files. 1e-4 is far above float32 noise of
    # an SVD and far below the drift of a randomised one (1e-2 and more).
    if drift > 1e-4:
        for result in results:
            result.status, result.difference, result.bound = "not-reproducible", drift, 1e-4
    return results


@contextlib.contextmanager
def _materialised(parameters: dict[int, nn.Parameter], real: dict[int, torch.Tensor]) -> Iterator[None]:
    try:
        for key, tensor in real.items():
            parameters[key].data = tensor
        yield
    finally:
        for key, tensor in real.items():
            parameters[key].data = hollow(tensor.shape, tensor.dtype)
