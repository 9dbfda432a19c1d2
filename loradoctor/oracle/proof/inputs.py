"""Inputs that exercise one layer alone, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

VECTORS = 2
"""random inputs of a linear layer: no update of the weight that differs in a number is orthogonal to one of them"""

TOKENS = 2048


class CannotProbe(Exception):
    """There is no input that this kind of layer takes alone; the message says which kind."""


def probe(layer: nn.Module, device: torch.device | str = "cpu") -> tuple[torch.Tensor, ...]:
    """Arguments for ``layer`` on ``device``: noise of the shape it takes, or token ids. Raises :class:`CannotProbe`."""
    base: Any = layer.get_base_layer()
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> tuple[torch.Tensor, ...]:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64).to(device),)

    if isinstance(base, nn.Embedding):
        touched = [i for indices in getattr(layer, "token_indices", {}).values() for i in indices]
        return (tokens(base.num_embeddings, touched).to(device)[None],)
    if isinstance(base, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        sizes = [d * (k - 1) + 1 + 2 * s for k, d, s in zip(base.kernel_size, base.dilation, base.stride, strict=True)]
        return noise(2, base.in_channels, *sizes)
    if isinstance(base, nn.MultiheadAttention):
        shape = (2, VECTORS) if base.batch_first else (VECTORS, 2)
        return noise(*shape, base.embed_dim) * 3
    if isinstance(base, nn.Linear):
        return noise(VECTORS, base.in_features)
    weight = getattr(base, "weight", None)
    if isinstance(weight, torch.Tensor) and (weight.dim() == 1 or type(base).__name__ == "Conv1D"):
        return noise(VECTORS, weight.shape[0])
    raise CannotProbe(f"there is no known input for a layer of class `{type(base).__name__}`")


def tokens(count: int, touched: list[int]) -> torch.Tensor:
    """Ids below ``count``: a random choice, and all of ``touched``."""
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:TOKENS]
    return torch.cat([chosen, torch.tensor(touched, dtype=chosen.dtype)])
