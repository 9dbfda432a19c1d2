"""Every tensor's bytes read once, in pieces: what rules need to know about its values, and what spectra are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from loradoctor.checkpoint.tensor import TensorInfo
from loradoctor.checkpoint.values.bits import Scratch, readable
from loradoctor.checkpoint.values.reading import Factor, experts, numbers, opened, pieces, same_bytes
from loradoctor.checkpoint.values.stats import Tally, TensorStats

if TYPE_CHECKING:
    from loradoctor.checkpoint.values.bits import Bits

__all__ = ["Factor", "TensorStats", "measure", "numbers", "readable", "same_bytes", "scan"]


def measure(path: Path, tensors: Mapping[str, TensorInfo]) -> dict[str, TensorStats]:
    """Statistics of every tensor of ``path`` whose dtype is understood; one pass, in file order. Raises OSError."""
    found = {name: stats for name, stats, _ in scan(path, tensors, sorted(tensors, key=lambda n: tensors[n].start))}
    return {name: found[name] for name in tensors if name in found}


def scan(
    path: Path, tensors: Mapping[str, TensorInfo], order: Iterable[str], factors: Mapping[str, Factor] | None = None
) -> Iterator[tuple[str, TensorStats, Bits | None]]:
    """Name, statistics and (for one of ``factors``) Gram matrices of the readable tensors, in the given order. Raises OSError."""
    scratch = Scratch()
    factors = factors or {}
    with opened(path) as file:
        for name in order:
            info, factor = tensors[name], factors.get(name)
            if not readable(info):
                continue
            tally = Tally(info.dtype, scratch, factor)
            if factor is not None and not factor.columns and factor.experts > 1 and info.strides is None:
                for expert, part in enumerate(experts(info, factor.experts)):
                    tally.add(pieces(file, part, scratch, factor), expert)
            else:
                tally.add(pieces(file, info, scratch, factor))
            yield name, tally.stats(), tally.gram()
