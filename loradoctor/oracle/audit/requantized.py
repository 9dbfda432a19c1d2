"""Whether a merged weight stands on a base that was quantized and taken up again, as after training with QLoRA."""

from __future__ import annotations

import torch

from ..proof.quantized import EightBit, Format, FourBit
from .compare import CHUNK, Update

_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_FP4 = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 0.5, 2 / 12, 0.25)
"""levels of bitsandbytes 0.50 (functional.py: get_4bit_type)"""

_BLOCK = 64
_FORMATS: tuple[Format, ...] = (
    FourBit("nf4", torch.tensor(_NF4), _BLOCK),
    FourBit("fp4", torch.tensor([*_FP4, *(-level for level in _FP4)]), _BLOCK),
    EightBit(),
)
"""what bitsandbytes quantizes to when it loads a model, with its own block size"""

EXPLAINED = 0.1
"""share of what is wrong that may be left: magnitudes that are quantized themselves change a weight by less than a hundredth"""


def format_of_base(base: torch.Tensor, merged: torch.Tensor, update: Update | None = None) -> str | None:
    """The format that ``base`` went through before ``update`` was added to it, None when none explains ``merged``."""
    rows, columns = update.shape if update is not None else (len(base), base[0].numel())
    base, merged = base.reshape(rows, columns), merged.reshape(rows, columns)
    wrong = 0.0
    left = dict.fromkeys((known.name for known in _FORMATS), 0.0)
    # So many rows always end with a block.
    step = _BLOCK * max(1, CHUNK // columns // _BLOCK)
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        original, found = (side[start:stop].to(torch.float32, copy=True) for side in (base, merged))
        target = original if update is None else update.add_to(original.clone(), start, stop)
        error = torch.nan_to_num(found - target)
        wrong += float(error.double().square().sum())
        for known in _FORMATS:
            left[known.name] += float((error - (known.requantised(original) - original)).double().square().sum())
    best = min(left, key=lambda name: left[name])
    return best if wrong > 0 and left[best] <= EXPLAINED * wrong else None
