"""A LoRA layer as many small ones: rows of its weight are independent, so PEFT's own layer is run on some of them at a time.

Memory is then bounded by the part, whatever the layer's size, and a part stays in the cache.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ..model.anatomy import fill
from .inputs import tokens

PART = 2**18
"""elements of a part: 2 MB in float64. Half of it spends its time in calls, eight times as much outside the cache."""


@dataclass
class Cut:
    """One LoRA layer and how its rows are taken: ``kind`` is ``linear``, ``transposed`` (Conv1D) or ``embedding``."""

    layer: Any
    name: str
    kind: str
    dora: bool
    rows: int
    """of a part, in outputs of a linear layer or in tokens of an embedding"""

    @cached_property
    def tokens(self) -> torch.Tensor:
        """What an embedding is asked for, in ascending order."""
        return tokens(self.weight.shape[0], []).sort().values

    @property
    def weight(self) -> torch.Tensor:
        """The base's weight as it is stored."""
        weight = self.layer.get_base_layer().weight
        assert isinstance(weight, torch.Tensor)  # noqa: S101 -- cut() has looked
        return weight.data

    @cached_property
    def _columns(self) -> torch.Tensor:
        return self.factors()[0].norm(dim=0)

    @property
    def trains_bias(self) -> bool:
        """Whether merging changes the base's bias as well (`lora_bias=True`)."""
        return self.kind != "embedding" and self.layer.lora_B[self.name].bias is not None

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(A, B) such that the update of the weight as (rows, others) is B @ A."""
        if self.kind == "embedding":
            a, b = self.layer.lora_embedding_A[self.name], self.layer.lora_embedding_B[self.name]
            return b.data.T, a.data.T
        return self.layer.lora_A[self.name].weight.data, self.layer.lora_B[self.name].weight.data

    def parts(self) -> Iterator[slice]:
        """All rows, some at a time."""
        total = self.weight.shape[1] if self.kind == "transposed" else self.weight.shape[0]
        for start in range(0, total, self.rows):
            yield slice(start, min(start + self.rows, total))

    def of(self, tensor: torch.Tensor, rows: slice) -> torch.Tensor:
        """The part of something shaped like the weight."""
        return tensor[:, rows] if self.kind == "transposed" else tensor[rows]

    def slack(self, rows: slice) -> torch.Tensor | None:
        """(r + 2) 2^-24 s |B||A|, the rounding of an update computed in float32; None where PEFT computes otherwise.

        By Cauchy and Schwarz, at most √r too large: norms of rows and columns instead of another product.
        """
        a, b = self.factors()
        # PEFT rounds the update of an embedding to the base's dtype before it adds it.
        if self.dora or self.kind == "embedding" or a.dtype != torch.float32 or b.dtype != torch.float32:
            return None
        factor = abs(float(self.layer.scaling[self.name])) * (a.shape[0] + 2) * 2.0**-24
        part = torch.outer(b[rows].norm(dim=1) * factor, self._columns)
        return part.T if self.kind == "transposed" else part


def cut(layer: nn.Module, size: int = PART, multiple: int = 1) -> Cut | None:
    """How to take ``layer`` in parts of about ``size`` elements, or None for layers whose rows depend on each other.

    A part has a ``multiple`` of rows, except the last.
    """
    from peft.tuners.lora import layer as lora

    adapters = [n for n in getattr(layer, "active_adapters", ()) if n in getattr(layer, "r", ())]
    if type(layer) not in (lora.Linear, lora.Embedding) or len(adapters) != 1:
        return None
    some: Any = layer
    base, name = some.get_base_layer(), adapters[0]
    variant = getattr(some, "lora_variant", {}).get(name)
    if variant is not None and type(variant).__name__ != "DoraLinearVariant":
        return None
    dora = variant is not None or bool(some.use_dora.get(name))
    if type(layer) is lora.Embedding:
        ordinary = type(base).forward is nn.Embedding.forward or hasattr(base, "embed_scale")
        if dora or base.max_norm is not None or not ordinary:
            return None
        return Cut(layer, name, "embedding", dora=False, rows=max(1, size // base.weight.shape[1]))
    a, b = some.lora_A[name], some.lora_B[name]
    transposed = bool(some.fan_in_fan_out)
    shape = tuple(base.weight.shape)
    if (type(a), type(b)) != (nn.Linear, nn.Linear) or shape[:: -1 if transposed else 1] != (b.out_features, a.in_features):
        return None
    # PEFT's DoRA multiplies an identity matrix of inputs x inputs through A and B at every forward: a part of a quarter of its size
    # adds little to its memory, and smaller ones would spend their time on it.
    rows = max(1, size // a.in_features, a.in_features // 4 if dora else 1)
    rows = -(-rows // multiple) * multiple
    return Cut(layer, name, "transposed" if transposed else "linear", dora, rows)


class Copy:
    """PEFT's layer in ``dtype`` on ``device``, holding one part of the weight at a time."""

    def __init__(self, cut: Cut, dtype: torch.dtype | None, device: torch.device | str) -> None:
        self._cut, self._dtype, self._device = cut, dtype, device
        # Without the weight, which stays where it is; everything else of a LoRA layer is small.
        kept = {id(p): nn.Parameter(p.data.new_empty(0)) for p in cut.layer.get_base_layer().parameters()}
        self.layer: Any = copy.deepcopy(cut.layer, kept)
        fill(self.layer)
        self.layer.eval().requires_grad_(requires_grad=False).to(device, dtype)
        self._base = self.layer.get_base_layer()
        if cut.kind == "embedding":
            self._base.padding_idx = None
        self._a, self._b = (t.clone() for t in _factors(self.layer, cut))
        bias = getattr(cut.layer.get_base_layer(), "bias", None)
        self._bias = self._own(bias.data) if bias is not None else None
        self._bias_b = self.layer.lora_B[cut.name].bias.data if cut.trains_bias else None
        self._magnitude = self.layer.lora_magnitude_vector[cut.name].weight.data if cut.dora else None

    def take(self, rows: slice) -> None:
        """Be the layer of these rows, not merged."""
        cut, layer = self._cut, self.layer
        layer.merged_adapters.clear()
        self._base.weight = _fixed(self._own(cut.of(cut.weight, rows)))
        if cut.kind == "embedding":
            self._base.num_embeddings = rows.stop - rows.start
            layer.lora_embedding_A[cut.name] = _fixed(self._a[:, rows])
            return
        layer.lora_B[cut.name].weight = _fixed(self._b[rows])
        if self._bias is not None:
            self._base.bias = _fixed(self._bias[rows].clone())
            self._base.nf = rows.stop - rows.start  # the width of a Conv1D, which its forward reads
        elif cut.kind == "transposed":
            self._base.nf = rows.stop - rows.start
        if self._bias_b is not None:
            layer.lora_B[cut.name].bias = _fixed(self._bias_b[rows])
        if self._magnitude is not None:
            layer.lora_magnitude_vector[cut.name].weight = _fixed(self._magnitude[rows])

    @property
    def weight(self) -> torch.Tensor:
        """The part of the weight that the layer holds now."""
        weight = self._base.weight
        assert isinstance(weight, torch.Tensor)  # noqa: S101 -- set by take()
        return weight.data

    @property
    def bias(self) -> torch.Tensor:
        """The part of the base's bias; only for a layer that has one."""
        bias = self._base.bias
        assert isinstance(bias, torch.Tensor)  # noqa: S101 -- set by take()
        return bias.data

    def _own(self, tensor: torch.Tensor) -> torch.Tensor:
        # A copy in any case: merging writes into it.
        return tensor.to(self._device, self._dtype or tensor.dtype, copy=True)


def token_ids(cut: Cut, rows: slice) -> torch.Tensor:
    """The tokens of these rows that an embedding is asked for, counted from the first of them."""
    first, last = torch.searchsorted(cut.tokens, torch.tensor([rows.start, rows.stop])).tolist()
    return cut.tokens[first:last] - rows.start


def _factors(layer: Any, cut: Cut) -> tuple[torch.Tensor, torch.Tensor]:
    if cut.kind == "embedding":
        return layer.lora_embedding_A[cut.name].data, layer.lora_embedding_B[cut.name].data
    return layer.lora_A[cut.name].weight.data, layer.lora_B[cut.name].weight.data


def _fixed(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
