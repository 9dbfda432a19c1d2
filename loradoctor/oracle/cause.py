"""From numbers to the cause: what was done to the weights of a merged model that are not base plus update."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .compare import Sums, Update, fold
from .layers import half_ulp

SAME = 0.005
"""how far the coefficient of a right merge may be from 1; measured 4e-5 in every dtype, and one percent is a wrong scale"""

MATCH = 0.02
"""how far a coefficient may be from the one that a known mistake gives"""

LOST = 0.5
"""share of the update that rounding may take, as ``loradoctor.merge.summary.LOST_ERROR``"""

FEW = 0.1
"""share of the elements below which a difference is damage at a place, not another update"""

LOW_RANK = 0.9
"""share of a difference that a basis of half its dimensions must hold to be the update of another adapter; noise gives 0.75"""


@dataclass
class Module:
    """One weight that the adapter changes: the tensors of both models (mapped), the update, and what was measured.

    ``rank``, ``alpha``, ``scale`` are those of the layer, ``usual`` the scale without patterns; None for methods that have none.
    """

    name: str
    stored: str
    base: torch.Tensor
    merged: torch.Tensor
    update: Update
    sums: Sums = field(default_factory=Sums)
    rank: int | None = None
    alpha: float | None = None
    scale: float | None = None
    usual: float | None = None
    rslora: bool = False
    via: tuple[torch.dtype, ...] = ()
    """dtypes that the model is known to have passed through"""

    def stored_as(self, values: torch.Tensor) -> torch.Tensor:
        """float32 ``values`` after they have been through those dtypes and the merged model's."""
        for dtype in (*self.via, self.merged.dtype):
            values = values.to(dtype)
        return values.to(torch.float32)


@dataclass
class Fault:
    """One cause. ``tensors`` are stored names; ``coefficient`` and ``residual`` those of all of them pooled."""

    cause: str
    tensors: list[str]
    coefficient: float | None = None
    residual: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)


def right(module: Module) -> bool:
    """Whether every element is within rounding of the exact merge and nothing says that another update was added."""
    sums = module.sums
    if sums.overflow or sums.beyond > (sums.elements if _imprecise(sums) else 0):
        return False
    if sums.coefficient is None:
        return True
    if abs(sums.coefficient - 1) <= _tolerance(sums):
        return True
    # Rounding is not fair to an update of less than half a step: what it does to the right one is what to expect.
    return abs(sums.coefficient - _expected(module)) <= _tolerance(sums)


def classify(modules: Sequence[Module]) -> list[Fault]:
    """The causes behind the modules that are not :func:`right`; one fault each."""
    good = [m for m in modules if right(m)]
    wrong = [m for m in modules if not any(m is g for g in good)]
    faults: list[Fault] = []
    overflowing = [m for m in wrong if m.sums.overflow]
    if overflowing:
        faults.append(_fault("overflow", overflowing, elements=sum(m.sums.overflow for m in overflowing)))
    wrong = [m for m in wrong if not m.sums.overflow]
    absent: list[Module] = []
    scaled: list[Module] = []
    odd: list[Module] = []
    for module in wrong:
        kind = _kind(module)
        (absent if kind == "absent" else scaled if kind == "scaled" else odd).append(module)
    found, odd, absent = _odd(odd, absent, modules)
    faults += found
    if absent:
        faults.append(_fault("not-merged" if len(absent) == len(modules) else "partly-merged", absent, of=len(modules)))
    faults += _scales(scaled)
    if odd:
        beyond = sum(m.sums.beyond for m in odd)
        faults.append(_fault("unexplained", odd, elements=beyond, of_elements=sum(m.sums.elements for m in odd)))
    if not faults and (share := lost([m.sums for m in good])) is not None and share > LOST:
        faults.append(_fault("rounded-away", good, lost=share, dtype=str(good[0].merged.dtype).removeprefix("torch.")))
    return faults


def lost(sums: Sequence[Sums]) -> float | None:
    """The share of the update that storage loses, overall or in the median module, whichever is larger; None without an update."""
    known = sorted(s.lost for s in sums if s.update > 0)
    if not known:
        return None
    overall = math.sqrt(sum(s.error for s in sums) / sum(s.update for s in sums))
    return max(overall, known[len(known) // 2])


def _fault(cause: str, modules: Sequence[Module], **detail: Any) -> Fault:
    update = sum(m.sums.update for m in modules)
    error, across = sum(m.sums.error for m in modules), sum(m.sums.across for m in modules)
    pooled = Sums(update=update, error=error, across=across)
    return Fault(cause, [m.stored for m in modules], pooled.coefficient, pooled.residual if update else None, detail)


def _imprecise(sums: Sums) -> bool:
    # TF32 is off by a little everywhere; damage is off by much, or somewhere.
    return sums.far == 0 and sums.beyond > 0.01 * sums.elements and sums.lost < 2.0**-8


def _tolerance(sums: Sums) -> float:
    return SAME + 6 * min(sums.lost, 1.0) / math.sqrt(max(1, sums.elements))


def _expected(module: Module) -> float:
    """The coefficient of the right merge after rounding."""
    total = 0.0

    def visit(base: torch.Tensor, _merged: torch.Tensor, start: int, stop: int) -> None:
        nonlocal total
        target = module.update.add_to(base.clone(), start, stop)
        total += module.update.along(module.stored_as(target) - target, start, stop)

    fold(module.base, module.merged, module.update.shape, visit)
    return 1 + total / module.sums.update


def _kind(module: Module) -> str:
    """``absent`` (the base's weight), ``scaled`` (a multiple of the update was added) or ``odd``."""
    sums = module.sums
    if sums.coefficient is None:
        return "odd"
    noise = _noise(module)
    aside = sums.residual**2 * sums.update
    # The residual is a difference of float32 sums: below a thousandth of the update it says nothing.
    aligned = aside <= 3 * noise + max(MATCH * sums.coefficient, 1e-3) ** 2 * sums.update
    if not aligned:
        return "odd"
    spread = MATCH + 6 * math.sqrt(noise / sums.update / max(1, sums.elements))
    if abs(sums.coefficient) <= spread:
        return "absent"
    return "odd" if abs(sums.coefficient - 1) <= spread else "scaled"


def _noise(module: Module) -> float:
    """The squared norm of what two roundings do to this weight."""
    total = 0.0

    def visit(base: torch.Tensor, merged: torch.Tensor, _start: int, _stop: int) -> None:
        nonlocal total
        largest = torch.maximum(base.abs(), merged.abs())
        steps = [half_ulp(largest, d) for d in {module.base.dtype, module.merged.dtype, *module.via} if d.itemsize <= 4]
        step = torch.stack(steps).amax(0) if steps else largest * 2.0**-52
        total += float(step.double().square().sum()) * 2 / 3

    fold(module.base, module.merged, module.update.shape, visit)
    return total


# -- a multiple of the update ---------------------------------------------------------------------------------------------------


def _hypotheses(module: Module) -> dict[str, float]:
    """Mistakes that add a multiple of the update, and the multiple."""
    found = {"merged-twice": 2.0, "subtracted": -1.0}
    if module.rank is None or module.scale is None or module.alpha is None or not module.scale or not module.rank:
        return found
    root = math.sqrt(module.rank)
    if module.rslora:
        found["rslora-ignored"] = 1 / root
    else:
        found["rslora-assumed"] = root
    found["alpha-ignored"] = 1 / module.scale
    found["rank-ignored"] = module.alpha / module.scale
    if module.usual is not None and not math.isclose(module.usual, module.scale):
        found["pattern-ignored"] = module.usual / module.scale
    return {cause: value for cause, value in found.items() if abs(value - 1) > 2 * MATCH}


def _scales(modules: Sequence[Module]) -> list[Fault]:
    """One fault when one mistake explains all, else one per coefficient."""
    if not modules:
        return []
    fitting = [cause for cause in _all_causes(modules) if all(_fits(m, cause) for m in modules)]
    if fitting:
        fitting = _by_rounding(modules[0], fitting)
        return [_scale_fault(fitting[0], modules, candidates=fitting)]
    groups: dict[str, list[Module]] = {}
    for module in modules:
        own = [cause for cause in _hypotheses(module) if _fits(module, cause)]
        groups.setdefault(own[0] if own else "wrong-scale", []).append(module)
    if "wrong-scale" in groups or len(groups) > 2:
        groups = {"wrong-scale": list(modules)}
    return [_scale_fault(cause, group) for cause, group in groups.items()]


def _scale_fault(cause: str, modules: Sequence[Module], **detail: Any) -> Fault:
    first = modules[0]
    coefficients = sorted(m.sums.coefficient or 0.0 for m in modules)
    return _fault(cause, modules, rank=first.rank, alpha=first.alpha, lowest=coefficients[0], highest=coefficients[-1], **detail)


def _all_causes(modules: Iterable[Module]) -> list[str]:
    return list(dict.fromkeys(cause for m in modules for cause in _hypotheses(m)))


def _fits(module: Module, cause: str) -> bool:
    value, found = _hypotheses(module).get(cause), module.sums.coefficient
    return value is not None and found is not None and abs(found - value) <= MATCH * abs(value) + _tolerance(module.sums)


def _by_rounding(module: Module, causes: list[str]) -> list[str]:
    """Tell merging twice from another factor of two: what is stored in between is rounded twice."""
    if causes[0] != "merged-twice" or len(causes) == 1:
        return causes
    twice = once = 0

    def visit(base: torch.Tensor, merged: torch.Tensor, start: int, stop: int) -> None:
        nonlocal twice, once
        first = module.update.add_to(base.clone(), start, stop)
        update = first - base
        twice += int(torch.count_nonzero(module.stored_as(module.stored_as(first) + update) == merged))
        once += int(torch.count_nonzero(module.stored_as(first + update) == merged))

    fold(module.base, module.merged, module.update.shape, visit)
    return causes if twice >= once else [*causes[1:], causes[0]]


# -- no multiple of the update --------------------------------------------------------------------------------------------------


def _odd(odd: list[Module], absent: list[Module], modules: Sequence[Module]) -> tuple[list[Fault], list[Module], list[Module]]:
    """Faults that explain modules of ``odd`` (and perhaps of ``absent``); what is left of both."""
    faults: list[Fault] = []
    turned = [m for m in odd if _is_transposed(m)]
    if turned:
        faults.append(_fault("transposed", turned, of=len(modules)))
        odd = [m for m in odd if not any(m is t for t in turned)]
    shift, shifted = _shifted(odd, modules)
    if shift:
        # The layers at the end have nobody to take an update from.
        faults.append(_fault("shifted-layers", shifted, shift=shift, of=len(modules)))
        odd = [m for m in odd if not any(m is s for s in shifted)]
        absent = [m for m in absent if _neighbour(m, shift, modules) is not None]
    foreign = [m for m in odd if m.sums.beyond > FEW * m.sums.elements]
    if foreign and len(foreign) * 2 > len(modules) - len(absent) and all(low_rank(m.base, m.merged, m.update.shape) for m in foreign[:4]):
        faults.append(_fault("other-adapter", [*foreign, *absent], of=len(modules)))
        odd = [m for m in odd if not any(m is f for f in foreign)]
        absent = []
    return faults, odd, absent


def _fit(module: Module, update: Update) -> tuple[float, float]:
    """(coefficient, residual) of what was added to ``module`` on another update of its shape, relative to that update."""
    along = moved = 0.0

    def visit(base: torch.Tensor, merged: torch.Tensor, start: int, stop: int) -> None:
        nonlocal along, moved
        change = torch.nan_to_num(merged - base)
        along += update.along(change, start, stop)
        moved += float(change.double().square().sum())

    fold(module.base, module.merged, module.update.shape, visit)
    size = update.norm2()
    if not size:
        return 0.0, math.inf
    return along / size, math.sqrt(max(0.0, moved - along**2 / size) / size)


def _explains(module: Module, update: Update) -> bool:
    if update.shape != module.update.shape:
        return False
    coefficient, residual = _fit(module, update)
    allowed = 3 * _noise(module) / max(update.norm2(), 1e-300) + MATCH**2
    return abs(coefficient - 1) <= 0.1 and residual**2 <= allowed


def _is_transposed(module: Module) -> bool:
    rows, columns = module.update.shape
    if rows != columns:
        return False
    if _explains(module, module.update.transposed()):
        return True
    # The whole weight the wrong way round.
    apart = size = 0.0
    turned = module.merged.reshape(rows, columns).T.contiguous()

    def visit(base: torch.Tensor, merged: torch.Tensor, start: int, stop: int) -> None:
        nonlocal apart, size
        apart += float((merged - module.update.add_to(base.clone(), start, stop)).double().square().sum())
        size += float(base.double().square().sum())

    fold(module.base, turned, (rows, columns), visit)
    return apart <= 1e-4 * size


_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def _place(name: str) -> tuple[str, int] | None:
    """A module's name without the number of its layer, and the number."""
    number = _NUMBER.search(name)
    return (f"{name[: number.start()]}*{name[number.end() :]}", int(number[0])) if number else None


def _neighbour(module: Module, shift: int, modules: Sequence[Module]) -> Module | None:
    place = _place(module.name)
    wanted = (place[0], place[1] + shift) if place else None
    return next((m for m in modules if wanted is not None and _place(m.name) == wanted), None)


def _shifted(odd: Sequence[Module], modules: Sequence[Module]) -> tuple[int, list[Module]]:
    """By how many layers the updates are shifted, 0 when they are not, and the modules that show it."""
    for module in odd[:4]:
        place = _place(module.name)
        peers = [m for m in modules if place and m is not module and (_place(m.name) or ("", 0))[0] == place[0]]
        for peer in sorted(peers, key=lambda p: abs((_place(p.name) or ("", 0))[1] - place[1] if place else 0)):
            if place and _explains(module, peer.update):
                shift = (_place(peer.name) or ("", 0))[1] - place[1]
                shown = [m for m in odd if (n := _neighbour(m, shift, modules)) is not None and _explains(m, n.update)]
                return shift, shown
    return 0, []


def low_rank(base: torch.Tensor, merged: torch.Tensor, shape: tuple[int, int]) -> bool:
    """Whether the difference of two tensors is of low rank beside its rounding, as what another adapter adds would be."""
    rows, columns = shape
    size = max(1, min(64, min(rows, columns) // 2))
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(columns, size, generator=generator)
    sketch = torch.zeros(rows, size)
    total = 0.0

    def look(original: torch.Tensor, found: torch.Tensor, start: int, stop: int) -> None:
        nonlocal total
        change = torch.nan_to_num(found - original)
        sketch[start:stop] = change @ probe
        total += float(change.double().square().sum())

    fold(base, merged, shape, look)
    if not total:
        return False
    basis = torch.linalg.qr(sketch)[0]
    held = torch.zeros(size, columns)

    def project(original: torch.Tensor, found: torch.Tensor, start: int, stop: int) -> None:
        held.add_(basis[start:stop].T @ torch.nan_to_num(found - original))

    fold(base, merged, shape, project)
    return float(held.double().square().sum()) > LOW_RANK * total
