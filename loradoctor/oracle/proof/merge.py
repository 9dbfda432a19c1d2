"""Walk the adapter's modules, give each its base weights for a moment, and compare merged with unmerged."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..device import CPU
from ..files.weights import BaseWeights, WeightsError
from ..model.isolated import needs_all_layers, peft_type, reads_base_weights, rebuild
from ..model.load import ADAPTER
from ..model.prepared import Prepared, quantization
from ..model.units import (
    NoWeight,
    bystanders_of,
    experts_source,
    group_names,
    group_parameters,
    materialised,
    plain,
    real_weights,
)
from . import experts
from . import layers as layer_check
from .quantized import EightBit, Format, FourBit, format_of, present

Progress = Callable[[str], None]

# By `quant_method`, what `quantized` reads. The rest is read by nothing but its own library.
READABLE = frozenset({"bitsandbytes", "compressed-tensors", "fp8", "fbgemm_fp8"})

def examine(prepared: Prepared, progress: Progress, device: torch.device = CPU) -> list[dict[str, Any]]:
    """One :class:`layers.Merge` as JSON per adapted module of ``prepared``, whose base has weights; computed on ``device``."""
    found: list[dict[str, Any]] = []
    if refusal := refused(prepared):
        return [layer_check.Merge(plain(name), *refusal).as_json() for name in prepared.adapted]
    for number, group in enumerate(prepared.groups, 1):
        progress(f"merging module {number} of {len(prepared.groups)}")
        for result in _examine_group(prepared, group, device):
            record = result.as_json()
            record["module"] = plain(result.module)
            record["shared_with"] = [plain(name) for name in result.shared_with]
            found.append(record)
    return found


def on_quantized(prepared: Prepared, request: dict[str, Any], progress: Progress) -> Prepared:
    """``prepared`` with the weights of its quantized base; as it was, with the reason in ``weights_error``, where they are not read."""
    name = quantization(prepared.base)
    if name not in READABLE or prepared.model is None:
        return prepared
    layers = {type(layer) for layer in prepared.adapted.values()}
    if name == "bitsandbytes" and not all(takes_up_bitsandbytes(layer) for layer in layers):
        method = peft_type(prepared.model.peft_config[ADAPTER])
        return replace(prepared, weights_error=f"PEFT does not merge {method} into weights of bitsandbytes")
    try:
        weights = BaseWeights.at(Path(request["base"]) / prepared.base.part, online=bool(request.get("online")), progress=progress)
        weights.adopt(prepared.base.model)
    except WeightsError as why:
        return replace(prepared, weights_error=f"the base's weights cannot be had: {why}")
    if not present(weights):
        return replace(prepared, weights_error=f"the base declares that it is quantized ({name}), and none of its weights is")
    return replace(prepared, weights=weights, weights_error="")


def takes_up_bitsandbytes(layer: type) -> bool:
    """Whether the installed PEFT merges layers of this kind into bitsandbytes' weights; others adapt them, or do not know them."""
    # bitsandbytes need not be here, so nothing can be asked: either the method has layers of its own for it that merge, or its
    # layers handle every kind of weight (since 0.20).
    package = Path(str(sys.modules[layer.__module__].__file__)).parent
    own, general = package / "bnb.py", package / "layer.py"
    return (own.is_file() and "def merge(" in own.read_text(encoding="utf-8")) or (
        general.is_file() and "resolve_quantization_backend" in general.read_text(encoding="utf-8")
    )


def refused(prepared: Prepared) -> tuple[str, str] | None:
    """(status, reason) when PEFT merges no layer of this model, whatever the layers are; None when it does."""
    check = getattr(prepared.model.base_model, "_check_merge_allowed", None)
    try:
        if check is not None:
            check()
    except (NotImplementedError, ValueError) as error:
        what = re.split(r"\n|\. ", str(error).strip())[0]
        return "unmergeable" if isinstance(error, NotImplementedError) else "refused", f"{type(error).__name__}: {what}"
    return None


def _examine_group(prepared: Prepared, group: list[str], device: torch.device) -> list[layer_check.Merge]:
    adapted = prepared.adapted
    bystanders = bystanders_of(group, adapted, prepared.users)
    if not all(layer_check.merges(adapted[name]) for name in group):
        reason = f"`{type(adapted[group[0]]).__name__}` layers do not merge"
        return [layer_check.Merge(name, "unmergeable", reason) for name in group]
    config = prepared.model.peft_config[ADAPTER]
    if reason := needs_all_layers(config):
        return [layer_check.Merge(name, "not-run", reason) for name in group]
    if len(group) == 1 and not bystanders and (found := _expert_by_expert(prepared, group[0], device)):
        return found
    if reason := _unknown_input([adapted[name] for name in group]):
        return [layer_check.Merge(name, "not-run", reason) for name in group]
    try:
        real = real_weights(group, adapted, prepared.base, prepared.weights)
    except NoWeight as why:
        return [layer_check.Merge(name, "not-run", str(why)) for name in group]
    kept = next((k for k in map(format_of, real.values()) if k is not None), None)
    if kept is not None and reads_base_weights(config):
        reason = f"PEFT starts this adapter from the base's values, which it does not do on weights in {kept.name}"
        return [layer_check.Merge(name, "not-run", reason) for name in group]
    with materialised(group_parameters(group, adapted), real):
        if not reads_base_weights(config):
            compared = layer_check.examine({name: adapted[name] for name in group}, bystanders, device, kept)
            return [_with_unscaled_bias(r, adapted.get(r.module), kept) for r in compared]
        results: list[layer_check.Merge] = []
        for name in group:
            results += _isolated(name, adapted[name], config, prepared.tensors, bystanders, device)
        return results


def _expert_by_expert(prepared: Prepared, name: str, device: torch.device) -> list[layer_check.Merge]:
    """The verdicts for fused experts that the base's files keep one by one; none when they have to be read as a whole."""
    layer = prepared.adapted[name]
    if not experts.is_wrapper(layer):
        return []
    names = group_names([name], prepared.adapted, prepared.base)
    try:
        sources = {
            own: experts_source(names[id(parameter)], parameter.shape, prepared.base, prepared.weights)
            for own, parameter in layer_check.base_parameters(layer).items()
        }
        ready = {own: source for own, source in sources.items() if source is not None}
        return layer_check.examine({name: layer}, (), device, sources=ready) if len(ready) == len(sources) else []
    except WeightsError as why:
        return [layer_check.Merge(name, "not-run", str(why))]


def _with_unscaled_bias(result: layer_check.Merge, layer: Any, kept: Format | None) -> layer_check.Merge:
    # peft/tuners/lora/bnb.py, merge: `bias + lora_B.bias`, without the scaling that the forward pass gives it.
    trained = bool(getattr(layer, "lora_bias", {}).get(ADAPTER))
    if not (trained and isinstance(kept, (FourBit, EightBit))) or result.status != "equal" or layer.scaling[ADAPTER] == 1:
        return result
    reason = "PEFT adds the trained bias without its scaling to weights of bitsandbytes"
    return replace(result, status="different", reason=reason, difference=abs(1 / layer.scaling[ADAPTER] - 1))


def _unknown_input(layers: list[nn.Module]) -> str:
    # Before the weights are read: a layer that cannot be run needs none.
    try:
        for layer in layers:
            if not experts.is_wrapper(layer):
                layer_check.probe(layer)
    except layer_check.CannotProbe as why:
        return str(why)
    return ""


def _isolated(
    name: str, layer: nn.Module, config: Any, tensors: dict[str, torch.Tensor], bystanders: list[str], device: torch.device
) -> list[layer_check.Merge]:
    try:
        first, second = (rebuild(name, layer, config, tensors, seed=seed) for seed in (0, 1))
    except Exception as error:  # noqa: BLE001 -- PEFT's own initialisation on this base failed: that is the result
        text = str(error).strip().split("\n")[0]
        return [layer_check.Merge(name, "not-run", f"PEFT could not rebuild it on the base: {type(error).__name__}: {text}")]
    results = layer_check.examine({name: first}, bystanders, device)
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
