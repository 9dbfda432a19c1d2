"""Where every tensor of a safetensors file begins: laid out as the installed safetensors does it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from .saving import Output, Shard


@dataclass(frozen=True, slots=True)
class Place:
    """Where one output belongs: the shard's number, and the first byte in its file."""

    output: Output
    shard: int
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class File:
    """A shard's bytes before the first tensor, and its whole length."""

    name: str
    header: bytes
    size: int


def laid_out(shards: Sequence[Shard]) -> tuple[tuple[File, ...], list[Place]]:
    """The files that ``shards`` become, and the place of every output."""
    files: list[File] = []
    places: list[Place] = []
    codes = _dtype_codes({output.dtype for shard in shards for output in shard.outputs})
    for number, shard in enumerate(shards):
        # As safetensors itself: by dtype, then by name.
        ordered = sorted(shard.outputs, key=lambda o: (list(codes).index(o.dtype), o.name))
        header: dict[str, object] = {"__metadata__": dict(shard.metadata)} if shard.metadata else {}
        ends: list[tuple[Output, int, int]] = []
        position = 0
        for output in ordered:
            nbytes = math.prod(output.shape) * output.dtype.itemsize
            header[output.name] = {"dtype": codes[output.dtype], "shape": list(output.shape), "data_offsets": [position, position + nbytes]}
            ends.append((output, position, nbytes))
            position += nbytes
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        begin = 8 + len(text)
        files.append(File(shard.file, len(text).to_bytes(8, "little") + text, begin + position))
        places += [Place(output, number, begin + start, nbytes) for output, start, nbytes in ends]
    return tuple(files), places


def _dtype_codes(dtypes: Iterable[torch.dtype]) -> dict[torch.dtype, str]:
    """Every dtype's name in a header, in the order in which the installed safetensors stores them."""
    from safetensors.torch import save

    data = save({str(dtype): torch.empty(0, dtype=dtype) for dtype in dtypes})
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {getattr(torch, name.removeprefix("torch.")): entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
