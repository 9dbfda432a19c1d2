"""What stands in the way of a merge, found out before the first byte: tensors that do not fit, layers that merging changes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from ..model.units import bystanders_of
from ..proof import layers as layer_check
from ..proof import merge as proof
from .making import Merging

Progress = Callable[..., None]


def evidence_against(merging: Merging, progress: Progress) -> dict[str, Any] | None:
    """What stands in the way of merging, as `examine` would tell it; None when nothing does."""
    prepared, outcome, known = merging.prepared, merging.prepared.outcome, told(merging)
    if outcome.missing or outcome.unexpected or outcome.mismatched:
        return {**known, "evidence": True, "merge": []}
    sample = copy.copy(prepared)
    sample.__dict__["groups"] = list(_one_of_each(merging))
    found = proof.examine(sample, progress)
    stands = any(record["status"] not in ("equal", "not-run") or record.get("overflow") for record in found)
    return {**known, "evidence": True, "merge": found} if stands else None


def told(merging: Merging) -> dict[str, Any]:
    """What `examine` tells of base and adapter, as far as it is known here."""
    return {
        "class": merging.prepared.base.class_name,
        "modules": [name for name, _ in merging.model.named_modules() if name],
        "loads": merging.prepared.outcome.as_json(),
        "quantization": None,
    }


def _one_of_each(merging: Merging) -> Iterator[list[str]]:
    """Whether merging is right depends on kinds of layers, not on their values: one group of each kind."""
    prepared, seen = merging.prepared, set()
    for group in prepared.groups:
        shared = bool(bystanders_of(group, prepared.adapted, prepared.users)) or len(group) > 1
        kind = tuple(_kind(prepared.adapted[name]) for name in group)
        if (kind, shared) not in seen:
            seen.add((kind, shared))
            yield group


def _kind(layer: Any) -> tuple[Any, ...]:
    base = layer_check.base_of(layer)
    shapes = tuple((name, tuple(p.shape), str(p.dtype)) for name, p in base.named_parameters())
    return type(base).__name__, tuple(type(module).__name__ for module in layer.modules()), shapes
