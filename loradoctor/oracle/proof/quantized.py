"""Weights that are stored in few bits: what they stand for, and what of a merged weight the same format would keep.

Formats are told by the tensors that lie beside the codes. Arithmetic is that of the libraries that write them: bitsandbytes
(functional.py: quantize_4bit, int8_vectorwise_quant), compressed-tensors (quantization/lifecycle/forward.py) and transformers' FP8
(integrations/finegrained_fp8.py); tests hold it against the first two where they are installed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from ..files.weights import BaseWeights, WeightsError

FORMAT = "_loradoctor_format"
"""mark on a tensor read by :func:`find`: the :class:`Format` it was stored in"""


LARGEST_BLOCK = 2**16
"""bitsandbytes has none above 4096; a file that says more would have us fill it up"""


class Format(Protocol):
    """One way of storing a weight. ``rows`` of the weight depend on each other; ``name`` is the field's."""

    name: str
    rows: int

    def requantised(self, values: torch.Tensor) -> torch.Tensor:
        """What is left of float32 ``values`` (some rows of a weight) when they are stored this way."""


@dataclass
class FourBit:
    """bitsandbytes' nf4 and fp4: 16 levels times the largest magnitude of a block, which may be quantized to 8 bits itself."""

    name: str
    levels: torch.Tensor
    """(16,) in the order of the codes"""
    block: int
    nested: torch.Tensor | None = None
    """(256,) levels of the magnitudes; None when they are float32"""
    nested_block: int = 256
    rows: int = 1

    def requantised(self, values: torch.Tensor) -> torch.Tensor:
        """As `Params4bit` makes it anew from the merged weight."""
        blocks = _blocks(values, self.block)
        largest = blocks.abs().amax(dim=1)
        codes = _nearest(blocks / largest.clamp_min(torch.finfo(torch.float32).tiny)[:, None], self.levels)
        if self.nested is not None:
            mean = largest.mean()
            groups = _blocks(largest - mean, self.nested_block)
            scale = groups.abs().amax(dim=1, keepdim=True)
            kept = _nearest(groups / scale.clamp_min(torch.finfo(torch.float32).tiny), self.nested) * scale
            largest = kept.reshape(-1)[: largest.numel()] + mean
        return (codes * largest[:, None]).reshape(-1)[: values.numel()].view(values.shape)


@dataclass
class EightBit:
    """bitsandbytes' LLM.int8: 127 steps of the largest magnitude of a row, taken from float16."""

    name: str = "int8"
    rows: int = 1

    def requantised(self, values: torch.Tensor) -> torch.Tensor:
        """As `Int8Params` makes it anew from the merged weight."""
        half = values.half().float()
        largest = half.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return torch.round(half * (127.0 / largest)) * largest / 127.0


@dataclass
class Scaled:
    """Codes times a scale per block of (``rows``, ``columns``): FP8, and the integers of compressed-tensors.

    The scale is chosen anew for the merged weight so that its largest magnitude is the largest code, as compressed-tensors does
    (quantization/utils/helpers.py: calculate_qparams).
    """

    name: str
    rows: int
    columns: int
    limit: float
    dtype: torch.dtype | None = None
    """float8; None for integers, of which there are twice ``limit``, and one"""

    def requantised(self, values: torch.Tensor) -> torch.Tensor:
        """Scaled, rounded to codes, and scaled back."""
        blocks = _tiles(values, self.rows, self.columns)
        scale = blocks.abs().amax(dim=(1, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / self.limit
        codes = blocks / scale
        # Integers reach from -limit - ½ to limit - ½: there is one more below zero.
        whole = codes.round().clamp(-self.limit - 0.5, self.limit - 0.5)
        kept = ((whole if self.dtype is None else codes.to(self.dtype).float()) * scale).flatten(2).flatten(0, 1)
        return kept[: values.shape[0], : values.shape[1]]


def find(weights: BaseWeights, names: Iterable[str], shape: torch.Size) -> torch.Tensor | None:
    """The parameter known under one of ``names`` as float32, with its :class:`Format` as the attribute :data:`FORMAT`.

    None when it is not stored in a format that is known here. Raises :class:`WeightsError` for one that is torn.
    """
    for name in names:
        stored = weights.stored_as((name,)) or name
        for read in (_four_bit, _eight_bit, _packed, _scaled):
            try:
                found = read(weights, stored)
            except WeightsError:
                raise
            except (RuntimeError, IndexError, KeyError, ValueError, TypeError, ZeroDivisionError) as error:
                raise WeightsError(f"the quantized `{stored}` does not fit the tensors that describe it") from error
            if found is None:
                continue
            values, kept = found
            if values.shape != shape:
                return None
            setattr(values, FORMAT, kept)
            return values
    return None


def present(weights: BaseWeights) -> bool:
    """Whether any tensor is stored in a format that is known here."""
    marks = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4", ".SCB", "_packed", "_scale", "_scale_inv")
    return any(name.endswith(marks) for name in weights.names())


def format_of(tensor: torch.Tensor) -> Format | None:
    """The format that ``tensor`` was stored in, None for an ordinary one."""
    found: Format | None = getattr(tensor, FORMAT, None)
    return found


def _four_bit(weights: BaseWeights, stored: str) -> tuple[torch.Tensor, Format] | None:
    kind = next((k for k in ("nf4", "fp4") if f"{stored}.quant_state.bitsandbytes__{k}" in weights), None)
    if kind is None:
        return None
    state = _state(weights, f"{stored}.quant_state.bitsandbytes__{kind}")
    codes, levels = weights.read(stored).reshape(-1).view(torch.uint8), weights.read(f"{stored}.quant_map").float()
    magnitudes, nested = weights.read(f"{stored}.absmax"), None
    if state.nested_offset is not None:
        nested = weights.read(f"{stored}.nested_quant_map").float()
        scale = weights.read(f"{stored}.nested_absmax").float()
        groups = _blocks(nested[magnitudes.long()], state.nested_block)
        magnitudes = (groups * scale[:, None]).reshape(-1)[: magnitudes.numel()] + state.nested_offset
    size = math.prod(state.shape)
    # The first of two values is in the high half of a byte.
    values = levels[torch.stack((codes >> 4, codes & 15), dim=1).reshape(-1).int()][:size]
    values = (_blocks(values, state.block) * magnitudes.float()[:, None]).reshape(-1)[:size].view(state.shape)
    return values.to(state.dtype).float(), FourBit(kind, levels, state.block, nested, state.nested_block)


@dataclass(frozen=True)
class _State:
    shape: torch.Size
    block: int
    nested_block: int
    nested_offset: float | None
    dtype: torch.dtype


def _state(weights: BaseWeights, name: str) -> _State:
    try:
        raw = json.loads(bytes(weights.read(name).tolist()))
        shape, block, nested = [int(n) for n in raw["shape"]], int(raw["blocksize"]), int(raw.get("nested_blocksize", 256))
        offset = float(raw["nested_offset"]) if "nested_offset" in raw else None
        dtype = getattr(torch, str(raw.get("dtype")), None)
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"`{name}` does not describe a quantized weight") from error
    if min(*shape, block, nested) < 1 or max(block, nested) > LARGEST_BLOCK:
        raise WeightsError(f"`{name}` does not describe a quantized weight")
    return _State(torch.Size(shape), block, nested, offset, dtype if isinstance(dtype, torch.dtype) else torch.float32)


def _eight_bit(weights: BaseWeights, stored: str) -> tuple[torch.Tensor, Format] | None:
    scale = f"{stored.removesuffix('weight')}SCB"
    if scale not in weights or stored not in weights:
        return None
    return weights.read(stored).float() * (weights.read(scale).float() / 127.0)[:, None], EightBit()


def _scaled(weights: BaseWeights, stored: str) -> tuple[torch.Tensor, Format] | None:
    name = next((n for n in (f"{stored}_scale_inv", f"{stored}_scale") if n in weights), None)
    if name is None or stored not in weights:
        return None
    codes, scale = weights.read(stored), weights.read(name)
    if codes.dim() != 2:
        return None
    if codes.dtype == torch.int8:
        label, limit, dtype = "int8", 127.5, None
    elif codes.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        label, limit, dtype = "fp8", torch.finfo(codes.dtype).max, codes.dtype
    else:
        return None
    return _spread(codes.float(), scale, label, limit, dtype)


def _packed(weights: BaseWeights, stored: str) -> tuple[torch.Tensor, Format] | None:
    # compressed-tensors, compressors/quantized_compressors/pack_quantized.py: signed codes, offset to unsigned, the first lowest.
    packed, scale, shape = (f"{stored}_{part}" for part in ("packed", "scale", "shape"))
    if not all(name in weights for name in (packed, scale, shape)) or f"{stored}_zero_point" in weights:
        return None
    rows, columns = (int(n) for n in weights.read(shape).tolist())
    words = weights.read(packed)
    bits = 32 * words.shape[1] // max(1, columns)
    if bits not in (4, 8) or words.dtype != torch.int32 or words.shape[0] != rows:
        return None
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    codes = ((words[:, :, None] >> shifts) & (2**bits - 1)).flatten(1)[:, :columns].float() - 2 ** (bits - 1)
    return _spread(codes, weights.read(scale), f"int{bits}", 2.0 ** (bits - 1) - 0.5, None)


def _spread(
    codes: torch.Tensor, scale: torch.Tensor, label: str, limit: float, dtype: torch.dtype | None
) -> tuple[torch.Tensor, Format] | None:
    rows, columns = codes.shape
    # transformers makes 16-bit weights of it, in the dtype of the scales if that is one.
    computed = scale.dtype if scale.element_size() == 2 else torch.bfloat16
    scale = scale.float()
    if scale.numel() == 1:
        return (codes * scale.reshape(())).to(computed).float(), Scaled(label, rows, columns, limit, dtype)
    scale = scale.view(rows, -1) if scale.dim() == 1 else scale
    # As many rows and columns to a scale as fit; 128 where the last block is not full.
    high, wide = (math.ceil(size / count) for size, count in zip((rows, columns), scale.shape, strict=True))
    high, wide = (block if size == block * count else 128 for block, size, count in zip((high, wide), (rows, columns), scale.shape, strict=True))
    spread = scale.repeat_interleave(high, 0)[:rows].repeat_interleave(wide, 1)[:, :columns]
    if spread.shape != codes.shape:
        return None
    return (codes * spread).to(computed).float(), Scaled(label, high, wide, limit, dtype)


def _blocks(values: torch.Tensor, block: int) -> torch.Tensor:
    """(n, block), the last row filled up with zeros."""
    flat = values.reshape(-1)
    return torch.nn.functional.pad(flat, (0, -flat.numel() % block)).view(-1, block)


def _tiles(values: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """(tiles down, rows, tiles across, columns), filled up with zeros."""
    down, across = -values.shape[0] % rows, -values.shape[1] % columns
    padded = torch.nn.functional.pad(values, (0, across, 0, down))
    return padded.view(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)


def _nearest(values: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    ordered = levels.to(values.device).sort().values
    return ordered[torch.bucketize(values, (ordered[1:] + ordered[:-1]) / 2)]
