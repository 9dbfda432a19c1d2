"""The updates of LoRA and DoRA layers without PEFT's merge: a product, and rows of one brought to length."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from ..audit.compare import Update, chunks
from ..audit.update import Dense, LowRank
from ..model.load import ADAPTER

CORNER = 64
"""rows and columns that show how PEFT computes an update"""


@dataclass
class Dora:
    """DoRA on a linear layer: the rows of ``base`` plus ``low``, each brought to its ``magnitude`` (peft/tuners/lora/dora.py)."""

    low: LowRank
    magnitude: torch.Tensor
    base: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.low.shape

    def add_to(self, weight: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Make the merge of ``weight`` in place; a row's norm is all that it needs of the others."""
        self.low.add_to(weight, start, stop)
        factor = self.magnitude[start:stop] / weight.norm(dim=1)
        return weight.mul_(factor[:, None])

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """What the merge adds to these rows of the base."""
        original = self._original(start, stop)
        return self.add_to(original.clone(), start, stop).sub_(original)

    def along(self, rows: torch.Tensor, start: int, stop: int) -> float:
        """The inner product with these rows."""
        return float(torch.dot(rows.reshape(-1), self.rows(start, stop).reshape(-1)))

    def norm2(self) -> float:
        """The squared norm, in pieces."""
        return sum(float(self.rows(start, stop).double().square().sum()) for start, stop in chunks(*self.shape))

    def slack(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        """As of the product, scaled with the rows, and the norm's own rounding."""
        left, right, terms = self.low.slack(start, stop)
        original = self._original(start, stop)
        factor = self.magnitude[start:stop] / self.low.add_to(original, start, stop).norm(dim=1)
        return left * factor.abs() + original.abs().amax(), right + 1, terms + 8

    def transposed(self) -> Update:
        """The transposed update."""
        return Dense(self.rows(0, self.shape[0]).T.contiguous())

    def times(self, factor: float) -> Update:
        """A multiple of what the merge adds."""
        return Dense(self.rows(0, self.shape[0]) * factor)

    def alone(self) -> Update:
        """What the merge adds to this base, for another one."""
        return Dense(self.rows(0, self.shape[0]))

    def _original(self, start: int, stop: int) -> torch.Tensor:
        return self.base[start:stop].to(torch.float32, copy=True)


def low_rank(layer: nn.Module) -> LowRank | None:
    """The update of a plain LoRA layer in the orientation its weight is stored in; None for anything that merges otherwise.

    peft/tuners/lora/layer.py: ``get_delta_weight`` of Linear, Embedding and the convolutions.
    """
    found: Any = layer
    if ADAPTER in (getattr(layer, "lora_variant", None) or {}) or (getattr(found, "use_dora", None) or {}).get(ADAPTER):
        return None
    return _product(layer)


def dora(layer: nn.Module, read: Callable[[], torch.Tensor | None]) -> Dora | None:
    """The merge of a DoRA layer on a linear layer whose weight ``read`` gives; None for anything else."""
    found: Any = layer
    variant = (getattr(layer, "lora_variant", None) or {}).get(ADAPTER)
    magnitudes = getattr(layer, "lora_magnitude_vector", None) or {}
    if type(variant).__name__ != "DoraLinearVariant" or ADAPTER not in magnitudes or found.fan_in_fan_out:
        return None
    low, base = _product(layer), read()
    if low is None or base is None:
        return None
    return Dora(low, magnitudes[ADAPTER].weight.detach().float().reshape(-1), base)


def proven(layer: nn.Module, low: LowRank) -> bool:
    """Whether PEFT's own ``get_delta_weight`` gives this update; a corner of it tells."""
    corner = _corner(layer)
    part = low if corner is layer else LowRank(low.left[:CORNER], low.right[:, :CORNER], low.scale)
    owner: Any = corner
    mine, theirs = part.rows(0, part.shape[0]), owner.get_delta_weight(ADAPTER).detach().float().reshape(part.shape)
    # Adapters in 16 bits: PEFT rounds the product to their dtype.
    return float((mine - theirs).norm()) <= 2.0**-7 * float(theirs.norm())


def _corner(layer: nn.Module) -> nn.Module:
    """A copy with the first inputs and outputs only: the update of a vocabulary is gigabytes. Convolutions stay whole."""
    found: Any = copy.copy(layer)
    found._modules = dict(layer._modules)  # noqa: SLF001 -- the copy must not share them
    if ADAPTER in (getattr(layer, "lora_embedding_A", None) or {}):
        a, b = found.lora_embedding_A[ADAPTER], found.lora_embedding_B[ADAPTER]
        found.lora_embedding_A = nn.ParameterDict({ADAPTER: nn.Parameter(a[:, :CORNER])})
        found.lora_embedding_B = nn.ParameterDict({ADAPTER: nn.Parameter(b[:CORNER])})
        return cast("nn.Module", found)
    a, b = found.lora_A[ADAPTER].weight, found.lora_B[ADAPTER].weight
    if a.dim() != 2:
        return layer
    for name, weight in (("lora_A", a[:, :CORNER]), ("lora_B", b[:CORNER])):
        half = nn.Module()
        half.weight = nn.Parameter(weight)
        found._modules[name] = nn.ModuleDict({ADAPTER: half})  # noqa: SLF001
    return cast("nn.Module", found)


def _product(layer: nn.Module) -> LowRank | None:
    from peft.tuners.lora import layer as lora

    found: Any = layer
    if getattr(found, "active_adapters", None) != [ADAPTER] or (getattr(found, "lora_bias", None) or {}).get(ADAPTER):
        return None
    kind = type(layer)
    scales = getattr(layer, "scaling", None)
    scale = scales.get(ADAPTER) if isinstance(scales, dict) else None
    if not isinstance(scale, (int, float)):
        return None
    if kind is lora.Embedding and ADAPTER in found.lora_embedding_A:
        return _of(found.lora_embedding_A[ADAPTER].T, found.lora_embedding_B[ADAPTER].T, scale)
    if kind is lora.Linear and ADAPTER in found.lora_A:
        a, b = found.lora_A[ADAPTER].weight, found.lora_B[ADAPTER].weight
        return _of(a.T, b.T, scale) if found.fan_in_fan_out else _of(b, a, scale)
    if kind in (getattr(lora, name, None) for name in ("Conv1d", "Conv2d", "Conv3d")) and ADAPTER in found.lora_A:
        a, b = found.lora_A[ADAPTER].weight, found.lora_B[ADAPTER].weight
        plain = getattr(found.get_base_layer(), "groups", 1) == 1 and b.shape[1] == a.shape[0]
        return _of(b.flatten(1), a.flatten(1), scale) if plain else None
    return None


def _of(left: torch.Tensor, right: torch.Tensor, scale: float) -> LowRank:
    return LowRank(left.detach().float(), right.detach().float(), float(scale))
