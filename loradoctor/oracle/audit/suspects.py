"""What else may have been added to a weight: nothing, a multiple, the transposed update, another layer's, another adapter's."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch

from ..proof.layers import half_ulp
from .compare import Update, fold
from .module import SAME, SPREAD, Module, expected, right
from .update import Dense

NEAR = 0.25
"""how far from the measured coefficient a hypothesis may be to be worth a look: rounding takes that much of a small update"""

KEPT = 0.9
"""share of the update along itself that rounding leaves; below, hypotheses are tried whatever the coefficient"""

ZERO = 0.02
"""a coefficient that is none"""

MOST = 0.98
"""share of the elements that a replay must give to the bit, or that must be within rounding of an estimate"""

LOW_RANK = 0.9
"""share of a difference that a basis of half its dimensions must hold to be the update of another adapter; noise gives 0.75"""


def absent(module: Module) -> bool:
    """Whether the weight is the base's."""
    sums = module.sums
    if sums.coefficient is None:
        return False
    spread = SPREAD * math.sqrt(sums.moved / sums.update / max(1, sums.elements))
    return abs(sums.coefficient) <= ZERO + spread and right(module.measured(module.update.times(0.0)))


def multiples(module: Module) -> dict[str, float]:
    """Mistakes that add a multiple of the update, and the multiple."""
    found = {"merged-twice": 2.0, "subtracted": -1.0}
    if module.rank and module.scale and module.alpha is not None:
        root = math.sqrt(module.rank)
        found["rslora-ignored" if module.rslora else "rslora-assumed"] = 1 / root if module.rslora else root
        found["alpha-ignored"] = 1 / module.scale
        found["rank-ignored"] = module.alpha / module.scale
        if module.usual is not None and not math.isclose(module.usual, module.scale):
            found["pattern-ignored"] = module.usual / module.scale
    return {cause: value for cause, value in found.items() if abs(value - 1) > 0.04}


def scaled(module: Module) -> tuple[float, tuple[str, ...]] | None:
    """The multiple of the update that was added, and the mistakes that explain it; None when none was."""
    coefficient = module.sums.coefficient
    if coefficient is None:
        return None
    known = multiples(module)
    # Where rounding takes most of the update, what is left of it tells little.
    kept = expected(module)
    faint = kept < KEPT
    likely = sorted({v for v in known.values() if faint or abs(v - coefficient) <= NEAR * abs(v)}, key=lambda v: abs(v - coefficient))
    for value in likely:
        if abs(value) > ZERO and right(module.measured(module.update.times(value))):
            return value, tuple(cause for cause, v in known.items() if math.isclose(v, value, rel_tol=0.02))
    both, once = twice(module) if faint or coefficient > 1 + NEAR else (0.0, 0.0)
    if both > once and both > MOST:
        return 2.0, ("merged-twice",)
    value = _unrounded(module, coefficient) if kept < 1 - SAME else coefficient
    if abs(value - 1) <= ZERO or abs(value) <= ZERO:
        return None
    tried = module.measured(module.update.times(value))
    # The scale is only as good as its estimate: where the weight is next to nothing, its step is finer than that.
    tried.sums.beyond = 0 if tried.sums.beyond <= (1 - MOST) * tried.sums.elements else tried.sums.beyond
    return (value, ()) if right(tried) else None


def _unrounded(module: Module, coefficient: float) -> float:
    """The multiple that was added, when ``coefficient`` of it is left after rounding."""
    value = coefficient
    for _ in range(3):
        kept = expected(module.measured(module.update.times(value)))
        value = coefficient / kept if kept > 0.1 else value
    return value


def twice(module: Module) -> tuple[float, float]:
    """The shares of elements that two merges and that one merge of twice the update give: what is stored in between is rounded."""
    both = once = 0

    def visit(base: torch.Tensor, merged: torch.Tensor, start: int, stop: int) -> None:
        nonlocal both, once
        first = module.update.add_to(base.clone(), start, stop)
        update = first - base
        both += int(torch.count_nonzero(module.stored_as(module.stored_as(first) + update) == merged))
        once += int(torch.count_nonzero(module.stored_as(first + update) == merged))

    fold(module.base, module.merged, module.update.shape, visit)
    return both / max(1, module.sums.elements), once / max(1, module.sums.elements)


def transposed(module: Module) -> bool:
    """Whether the update, or the whole weight, is the wrong way round; one that is not square then lies in the wrong shape."""
    rows, columns = module.update.shape
    if rows != columns:
        turned = module.update.alone().rows(0, rows).T.reshape(rows, columns)
        return explains(module, Dense(turned.contiguous()))
    if explains(module, module.update.transposed()):
        return True
    apart = size = 0.0

    def visit(base: torch.Tensor, merged: torch.Tensor, start: int, stop: int) -> None:
        nonlocal apart, size
        size += float(base.double().square().sum())
        apart += float((merged - module.update.add_to(base, start, stop)).double().square().sum())

    fold(module.base, module.merged.reshape(rows, columns).T.contiguous(), (rows, columns), visit)
    return apart <= 1e-4 * size


def explains(module: Module, update: Update) -> bool:
    """Whether ``update`` instead of its own makes the merged weight."""
    if update.shape != module.update.shape:
        return False
    tried = module.measured(update)
    return tried.sums.coefficient is not None and right(tried)


def shift(odd: Sequence[Module], modules: Sequence[Module]) -> tuple[int, list[Module]]:
    """By how many layers the updates are shifted, 0 when they are not, and the modules that show it."""
    for module in odd[:4]:
        place = _place(module.name)
        if place is None:
            continue
        peers = [(p[1] - place[1], m) for m in modules if (p := _place(m.name)) and p[0] == place[0] and m is not module]
        for step, peer in sorted(peers, key=lambda pair: abs(pair[0])):
            if explains(module, peer.update.alone()):
                return step, [m for m in odd if _is_shifted(m, step, modules)]
    return 0, []


def _is_shifted(module: Module, step: int, modules: Sequence[Module]) -> bool:
    """Whether the update of the layer ``step`` further on is there; past the end, that of any other layer."""
    other = neighbour(module, step, modules)
    if other is not None:
        return explains(module, other.update.alone())
    place = _place(module.name)
    return any(
        explains(module, m.update.alone()) for m in modules if m is not module and place and (p := _place(m.name)) and p[0] == place[0]
    )


def neighbour(module: Module, step: int, modules: Sequence[Module]) -> Module | None:
    """The same module ``step`` layers further on."""
    place = _place(module.name)
    wanted = (place[0], place[1] + step) if place else None
    return next((m for m in modules if wanted is not None and _place(m.name) == wanted), None)


def low_rank(base: torch.Tensor, merged: torch.Tensor, shape: tuple[int, int]) -> bool:
    """Whether the difference of two tensors is of low rank beside its rounding, as what another adapter adds would be."""
    rows, columns = shape
    size = max(1, min(64, min(rows, columns) // 2))
    probe = torch.randn(columns, size, generator=torch.Generator().manual_seed(0))
    sketch, held = torch.zeros(rows, size), torch.zeros(size, columns)
    total = noise = 0.0

    def look(original: torch.Tensor, found: torch.Tensor, start: int, stop: int) -> None:
        nonlocal total, noise
        change = torch.nan_to_num(found - original)
        sketch[start:stop] = change @ probe
        total += float(change.double().square().sum())
        if merged.dtype.is_floating_point and merged.dtype.itemsize <= 4:
            noise += float(half_ulp(found, merged.dtype).double().square().sum()) / 3

    def project(original: torch.Tensor, found: torch.Tensor, start: int, stop: int) -> None:
        held.add_(basis[start:stop].T @ torch.nan_to_num(found - original))

    fold(base, merged, shape, look)
    if total <= 2 * noise:
        return False
    basis = torch.linalg.qr(sketch)[0]
    fold(base, merged, shape, project)
    # Of the noise the basis holds its share at least: the rest is what the update must account for.
    return float(held.double().square().sum()) - noise * size / min(rows, columns) > LOW_RANK * (total - noise)


_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def _place(name: str) -> tuple[str, int] | None:
    """A module's name without the number of its layer, and the number."""
    number = _NUMBER.search(name)
    return (f"{name[: number.start()]}*{name[number.end() :]}", int(number[0])) if number else None
