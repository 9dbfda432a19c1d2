"""What an adapter adds to one weight, as a matrix that is never whole in memory when it is low-rank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from .compare import Update
from .load import ADAPTER


@dataclass
class LowRank:
    """``left`` (rows, r) times ``right`` (r, columns), both float32, the scale already in ``left``."""

    left: torch.Tensor
    right: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the product."""
        return self.left.shape[0], self.right.shape[1]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of the product."""
        return self.left[start:stop] @ self.right

    def add_to(self, weight: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Add those rows to ``weight`` in one pass over memory."""
        return weight.addmm_(self.left[start:stop], self.right)

    def along(self, rows: torch.Tensor, start: int, stop: int) -> float:
        """⟨rows, left·right⟩ = ⟨rows·rightᵀ, left⟩, without the product."""
        return float(torch.sum((rows @ self.right.T).double() * self.left[start:stop]))

    def norm2(self) -> float:
        """‖left·right‖² from the Gram matrices."""
        left, right = self.left.double(), self.right.double()
        return max(0.0, float(torch.sum((left.T @ left) * (right @ right.T))))

    def slack(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Cauchy and Schwarz for Σ|left||right|, and r + 2 roundings."""
        left, right = self._norms
        return left[start:stop], right, self.left.shape[1] + 2

    def transposed(self) -> Update:
        """The transposed product."""
        return LowRank(self.right.T.contiguous(), self.left.T.contiguous())

    @cached_property
    def _norms(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.left.norm(dim=1), self.right.norm(dim=0)


@dataclass
class Dense:
    """An update that PEFT has computed, ``delta`` (rows, columns), with the target it was taken from."""

    delta: torch.Tensor
    target: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.delta.shape[0], self.delta.shape[1]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows in float32."""
        return self.delta[start:stop].to(torch.float32)

    def add_to(self, weight: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Make ``weight`` PEFT's exact merge, whatever it was."""
        return weight.copy_(self.target[start:stop])

    def along(self, rows: torch.Tensor, start: int, stop: int) -> float:
        """The inner product with these rows."""
        return float(torch.dot(rows.reshape(-1), self.rows(start, stop).reshape(-1)))

    def norm2(self) -> float:
        """The squared norm, in pieces."""
        return sum(float(part.double().square().sum()) for part in self.delta.split(256))

    def slack(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Methods that are no plain product compute in float32 over the whole weight: 2⁻¹⁸ of its scale."""
        scale = float(self.target.abs().max()) + float(self.delta.abs().max())
        return torch.full((stop - start,), scale), torch.ones(self.shape[1]), 64.0

    def transposed(self) -> Update:
        """The transposed update."""
        return Dense(self.delta.T.contiguous(), self.target.T.contiguous())


def low_rank(layer: nn.Module) -> LowRank | None:
    """The update of a plain LoRA layer in the orientation its weight is stored in; None for anything that merges otherwise.

    peft/tuners/lora/layer.py: ``get_delta_weight`` of Linear, Embedding and the convolutions.
    """
    from peft.tuners.lora import layer as lora

    found: Any = layer
    if getattr(found, "active_adapters", None) != [ADAPTER] or _is_variant(found):
        return None
    kind = type(layer)
    scale = (getattr(found, "scaling", None) or {}).get(ADAPTER)
    if kind is lora.Embedding and ADAPTER in found.lora_embedding_A:
        a, b = found.lora_embedding_A[ADAPTER], found.lora_embedding_B[ADAPTER]
        return _scaled(a.T, b.T, scale)
    if kind is lora.Linear and ADAPTER in found.lora_A:
        a, b = found.lora_A[ADAPTER].weight, found.lora_B[ADAPTER].weight
        return _scaled(a.T, b.T, scale) if found.fan_in_fan_out else _scaled(b, a, scale)
    if kind in (getattr(lora, name, None) for name in ("Conv1d", "Conv2d", "Conv3d")) and ADAPTER in found.lora_A:
        a, b = found.lora_A[ADAPTER].weight, found.lora_B[ADAPTER].weight
        plain = getattr(found.get_base_layer(), "groups", 1) == 1 and b.shape[1] == a.shape[0]
        return _scaled(b.flatten(1), a.flatten(1), scale) if plain else None
    return None


def proven(layer: nn.Module, update: LowRank) -> bool:
    """Whether PEFT's own ``get_delta_weight`` gives this update."""
    owner: Any = layer
    delta = owner.get_delta_weight(ADAPTER)
    mine = update.rows(0, update.shape[0])
    theirs = delta.detach().float().reshape(update.shape)
    # Adapters in 16 bits: PEFT rounds the product to their dtype.
    return float((mine - theirs).norm()) <= 2.0**-7 * float(theirs.norm())


def _scaled(left: torch.Tensor, right: torch.Tensor, scale: Any) -> LowRank | None:
    if not isinstance(scale, (int, float)):
        return None
    with torch.no_grad():
        return LowRank((left.detach().float() * float(scale)).contiguous(), right.detach().float().contiguous())


def _is_variant(layer: Any) -> bool:
    flags = [getattr(layer, name, None) or {} for name in ("use_dora", "lora_bias")]
    return ADAPTER in (getattr(layer, "lora_variant", None) or {}) or any(flag.get(ADAPTER) for flag in flags)

