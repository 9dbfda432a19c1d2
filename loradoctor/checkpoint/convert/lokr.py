"""LoKr of LyCORIS: the same Kronecker factors as PEFT's, if PEFT's config can be made to ask for exactly these shapes.

PEFT decides by `r`, `decompose_both` and `decompose_factor` which factors are full and how the widths are cut
(peft/tuners/lokr/layer.py, update_layer and factorization, taken over from lycoris/modules/lokr.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from loradoctor.checkpoint.convert.parts import Part, Piece
from loradoctor.checkpoint.tensor import TensorInfo
from loradoctor.repair.plan import Refusal

Shape = tuple[int, ...]
_WIDEST = 1 << 24
"""Widths are cut by trying divisors: a header that claims more than any model has is not tried."""


def part(module: str, shapes: Mapping[str, Shape], tensors: Mapping[str, Piece], alpha: Callable[[int], float | Refusal]) -> Part | Refusal:
    """One module. Rank 0 stands for "both factors are full": LyCORIS then applies no factor whatever alpha says."""
    low = [leaf for leaf in shapes if leaf.endswith("_a")]
    if any(len(shape) < 2 for shape in shapes.values()):
        return Refusal(f"`{module}` has a factor that is no matrix")
    if not _first(shapes) or not _second(shapes):
        return Refusal(f"`{module}` lacks a factor of its Kronecker product")
    if not low:
        return Part(module, 0, 0.0, tensors)
    rank = shapes[f"{low[0][:-2]}_b"][0] if f"{low[0][:-2]}_b" in shapes else 0
    if not rank:
        return Refusal(f"`{module}` lacks `{low[0][:-2]}_b`")
    value = alpha(rank)
    return value if isinstance(value, Refusal) else Part(module, rank, value, tensors)


def settle(
    parts: Sequence[Part], infos: Mapping[str, TensorInfo], wanted: Mapping[str, Shape]
) -> tuple[list[Part], dict[str, object], list[Refusal]]:
    """Rank for the modules without one, and the config fields under which PEFT asks for these shapes."""
    if any(n > _WIDEST for p in parts for n in wanted[p.module]):
        return list(parts), {}, [Refusal("the base has wider weights than any model")]
    shapes = {p.module: {leaf: infos[piece.source].shape for leaf, piece in p.tensors.items()} for p in parts}
    largest = max((max(_first(s) + _second(s)) for s in shapes.values()), default=1)
    settled = [replace(p, rank=largest, alpha=largest) if p.rank == 0 else p for p in parts]
    both = any("lokr_w1_a" in s for s in shapes.values())
    core = any("lokr_t2" in s for s in shapes.values())
    for factor in (-1, *sorted({n for s in shapes.values() for n in _first(s)})):
        fields: dict[str, object] = {"decompose_both": both, "decompose_factor": factor, "use_effective_conv2d": core}
        if all(_asked(p.rank, wanted[p.module], factor, both=both, core=core) == shapes[p.module] for p in settled):
            return settled, fields, []
    reason = "no `r`, `decompose_both` and `decompose_factor` make PEFT cut the weights as LyCORIS did here"
    return settled, {}, [Refusal(reason, "PEFT has no full_matrix and no unbalanced factorization")]


def _first(shapes: Mapping[str, Shape]) -> Shape:
    if "lokr_w1" in shapes:
        return shapes["lokr_w1"][:2]
    return (shapes["lokr_w1_a"][0], shapes["lokr_w1_b"][1]) if {"lokr_w1_a", "lokr_w1_b"} <= shapes.keys() else ()


def _second(shapes: Mapping[str, Shape]) -> Shape:
    if "lokr_w2" in shapes:
        return shapes["lokr_w2"][:2]
    return tuple(n for leaf in ("lokr_w2_a", "lokr_w2_b") for n in shapes.get(leaf, ()))


def _asked(rank: int, weight: Shape, factor: int, *, both: bool, core: bool) -> dict[str, Shape]:
    """The tensors that PEFT creates for a weight (out, in) or (out, in, height, width)."""
    (out_l, out_k), (in_m, in_n) = factorization(weight[0], factor), factorization(weight[1], factor)
    kernel = weight[2:]
    asked: dict[str, Shape] = {}
    if both and rank < max(out_l, in_m) / 2:
        asked |= {"lokr_w1_a": (out_l, rank), "lokr_w1_b": (rank, in_m)}
    else:
        asked["lokr_w1"] = (out_l, in_m)
    if rank >= max(out_k, in_n) / 2:
        asked["lokr_w2"] = (out_k, in_n, *kernel)
    elif core and any(n != 1 for n in kernel):
        asked |= {"lokr_t2": (rank, rank, *kernel), "lokr_w2_a": (rank, out_k), "lokr_w2_b": (rank, in_n)}
    else:
        asked |= {"lokr_w2_a": (out_k, rank), "lokr_w2_b": (rank, _product(in_n, kernel))}
    return asked


def _product(first: int, others: Iterable[int]) -> int:
    for other in others:
        first *= other
    return first


def factorization(dimension: int, factor: int) -> tuple[int, int]:
    """Two numbers whose product is ``dimension``, the smaller first and at most ``factor``; near the root for -1."""
    if factor > 0 and dimension % factor == 0:
        return factor, dimension // factor
    limit = dimension if factor == -1 else factor
    small, large = 1, dimension
    length = small + large
    while small < large:
        candidate = small + 1
        while dimension % candidate:
            candidate += 1
        if candidate + dimension // candidate > length or candidate > limit:
            break
        small, large = candidate, dimension // candidate
    return min(small, large), max(small, large)
