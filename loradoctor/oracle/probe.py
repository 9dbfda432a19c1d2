"""What PEFT makes of an adapter's tensors, as one number per module: uᵀ·ΔW·v for fixed u and v.

Whoever knows the tensors can compute the same number without PEFT. Both agreeing says that the file reached the model, with the
right halves in the right place at the right scale. It needs no weights of the base.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch

from .model.base import Unbuildable, build
from .model.isolated import defer_init
from .model.load import ADAPTER, load
from .model.prepared import disarm

Progress = Callable[[str], None]
STEP, START_LEFT, START_RIGHT = 0.7, 0.3, 1.1
"""The vectors are cos(STEP·i + START): no symmetry that an exchange or a transposition could hide behind."""


def probe(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """``loads`` as in ``load.Outcome``, ``class`` of the base, and ``probes``: module → uᵀ·ΔW·v, None where PEFT has no ΔW.

    ``base_error`` when the base cannot be built.
    """
    directory = request["adapter"]
    raw = json.loads((Path(directory) / "adapter_config.json").read_text(encoding="utf-8"))
    progress("building the base model from its config")
    online, labels = bool(request.get("online")), request.get("num_labels")
    try:
        base = build(request["base"], raw, online=online, num_labels=labels, modules=request.get("modules", ()))
    except Unbuildable as reason:
        return {"base_error": str(reason)}
    progress("loading the adapter onto it")
    config = peft.PeftConfig.from_pretrained(directory)
    defer_init(config)
    disarm(config)
    model, outcome = load(base, directory, config)
    found = _values(model) if model is not None else {}
    return {"class": base.class_name, "loads": outcome.as_json(), "probes": found}


def _values(model: Any) -> dict[str, float | None]:
    from peft.tuners.lora import LoraLayer

    found: dict[str, float | None] = {}
    for name, layer in model.base_model.model.named_modules():
        if isinstance(layer, LoraLayer) and ADAPTER in {*layer.lora_A, *layer.lora_embedding_A}:
            try:
                found[name] = _value(layer)
            except Exception:  # noqa: BLE001 -- variants that merge otherwise have no single ΔW
                found[name] = None
    return found


def _value(layer: Any) -> float | None:
    with torch.no_grad():
        delta = layer.get_delta_weight(ADAPTER).double()
    if delta.dim() == 2 and (layer.lora_embedding_A or getattr(layer, "fan_in_fan_out", False)):
        delta = delta.T
    if delta.dim() != 2:
        return None
    left = torch.cos(STEP * torch.arange(delta.shape[0], dtype=torch.float64) + START_LEFT)
    right = torch.cos(STEP * torch.arange(delta.shape[1], dtype=torch.float64) + START_RIGHT)
    return float(left @ delta @ right)
