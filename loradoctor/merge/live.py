"""A model in memory: does merging change what it computes, and does its adapter do anything at all?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from loradoctor.checkpoint.evidence import ModuleMerge
from loradoctor.diagnostic import Check
from loradoctor.merge.summary import NAME, summarise

if TYPE_CHECKING:
    import torch
    from torch import nn

SUBJECT = "model"


def merge_equivalence(model: Any) -> Check:
    """Merged against unmerged for every adapted layer of a ``PeftModel`` in memory; the model is left as it is.

    Layers are copied to the CPU one at a time, those that share a weight together, so that memory grows by the largest only.
    The numbers of the :class:`~loradoctor.diagnostic.Check` are those of ``loradoctor check``. Raises TypeError when ``model``
    has no adapter.
    """
    from loradoctor.oracle.model import units

    adapted = units.adapted_layers(model)
    configs = getattr(model, "peft_config", None)
    if not configs:
        raise TypeError(f"a `{type(model).__name__}` has no adapter: wrap it with `get_peft_model` or load one with `PeftModel`")
    if not adapted:
        return Check(SUBJECT, NAME, "not-run", "the method adapts no layer that could be merged")
    merged = [name for name, layer in adapted.items() if getattr(layer, "merged", False)]
    if merged:
        return Check(SUBJECT, NAME, "not-run", f"the adapter is already merged in {len(merged)} modules; unmerge it first")
    users = units.users_of_weights(model, adapted)
    found: list[ModuleMerge] = []
    for group in units.groups(adapted, users):
        found += _group({name: adapted[name] for name in group}, units.bystanders_of(group, adapted, users))
    return summarise(SUBJECT, found)


def _group(layers: Mapping[str, nn.Module], bystanders: list[str]) -> list[ModuleMerge]:
    from loradoctor.oracle.model.anatomy import base_parameters
    from loradoctor.oracle.model.units import plain
    from loradoctor.oracle.proof import layers as layer_check

    refused = [name for name, layer in layers.items() if not layer_check.merges(layer)]
    if refused:
        reason = f"`{type(layers[refused[0]]).__name__}` layers do not merge"
        return [ModuleMerge(plain(name), "unmergeable", reason) for name in layers]
    quantized = [p for layer in layers.values() for p in base_parameters(layer).values() if not p.dtype.is_floating_point]
    if quantized:
        return [ModuleMerge(plain(name), "not-run", f"the base is quantized ({quantized[0].dtype})") for name in layers]
    results = layer_check.examine(layers, bystanders)
    return [
        ModuleMerge(**{**r.as_json(), "module": plain(r.module), "shared_with": tuple(plain(n) for n in r.shared_with)})
        for r in results
    ]


def adapter_effect(model: Any, inputs: Mapping[str, Any]) -> float:
    """Largest absolute difference of the model's first output with and without its adapters, in the output's unit (logits).

    Runs two forward passes in evaluation mode without gradients and leaves training mode, adapters and ``requires_grad`` as they
    were. Prompt learning, whose outputs are longer with the adapter, is compared on the common tail. Raises TypeError when
    ``model`` has no adapter to disable, ValueError for a merged adapter and for outputs that are not finite.
    """
    import torch

    if not hasattr(model, "disable_adapter"):
        raise TypeError(f"a `{type(model).__name__}` has no `disable_adapter`: it is not a `PeftModel`")
    if any(getattr(module, "merged", False) for module in model.modules()):
        raise ValueError("the adapter is merged; disabling it would unmerge it for good, so unmerge it first")
    with _evaluation(model), torch.no_grad():
        adapted = _first(model(**inputs))
        with model.disable_adapter():
            plain = _first(model(**inputs))
    if not torch.isfinite(adapted).all():
        raise ValueError("the outputs with the adapter are not finite")
    if not torch.isfinite(plain).all():
        raise ValueError("the outputs without the adapter are not finite")
    if adapted.shape != plain.shape:
        shorter = min(adapted.shape[1], plain.shape[1])
        adapted, plain = adapted[:, -shorter:], plain[:, -shorter:]
    return float((adapted.float() - plain.float()).abs().max())


def _first(output: Any) -> torch.Tensor:
    """Logits where the output has them, else its first tensor."""
    import torch

    if isinstance(output, torch.Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, torch.Tensor):
        return logits
    found = next(iter(output.values())) if isinstance(output, dict) else output[0]
    if isinstance(found, torch.Tensor):
        return found
    raise TypeError(f"the model's output starts with a `{type(found).__name__}`, not with a tensor")


@contextlib.contextmanager
def _evaluation(model: Any) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    try:
        yield
    finally:
        # PEFT makes the adapter trainable when it is enabled again, whether it was before or not.
        for parameter, required in gradients:
            parameter.requires_grad_(required)
        for module, mode in training.items():
            module.training = mode
