"""From numbers to the cause: what was done to the weights of a merged model that are not base plus update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import requantized, suspects
from .compare import Sums
from .module import Module, right

LOST = 0.5
"""share of the update that rounding may take, as ``loradoctor.merge.summary.LOST_ERROR``"""

FEW = 0.1
"""share of the elements below which a difference is damage at a place, not another update"""


@dataclass
class Fault:
    """One cause. ``tensors`` are stored names; ``coefficient`` and ``residual`` those of all of them pooled."""

    cause: str
    tensors: list[str]
    coefficient: float | None = None
    residual: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)


Each = Callable[[Callable[[Module], Any], Sequence[Module]], Iterable[Any]]
"""``map``, or that of a pool of threads"""


def classify(modules: Sequence[Module], each: Each = map) -> list[Fault]:
    """The causes behind the modules that are not :func:`~.module.right`; one fault each."""
    good, wrong = _split(modules, right, each)
    faults: list[Fault] = []
    infinite, wrong = _split(wrong, lambda m: bool(m.sums.overflow))
    if infinite:
        faults.append(_fault("overflow", infinite, elements=sum(m.sums.overflow for m in infinite)))
    absent, wrong = _split(wrong, suspects.absent, each)
    multiples = {id(m): found for m, found in zip(wrong, each(suspects.scaled, wrong), strict=True) if found}
    scaled, odd = _split(wrong, lambda m: id(m) in multiples)
    turned, odd = _split(odd, suspects.transposed, each)
    if turned:
        faults.append(_fault("transposed", turned, of=len(modules)))
    step, shifted = suspects.shift(odd, modules)
    if step:
        faults.append(_fault("shifted-layers", shifted, shift=step, of=len(modules)))
        odd = _split(odd, lambda m: any(m is s for s in shifted))[1]
        # The layers at the end have nobody to take an update from.
        absent = [m for m in absent if suspects.neighbour(m, step, modules) is not None]
    taken_up, odd = _split(odd, lambda m: requantized.format_of_base(m.base, m.merged, m.update) is not None)
    if taken_up:
        first = taken_up[0]
        kind = requantized.format_of_base(first.base, first.merged, first.update)
        faults.append(_fault("quantized-base", taken_up, of=len(modules), format=kind))
    if _is_foreign(odd, len(modules) - len(absent)):
        foreign, odd = _split(odd, lambda m: m.sums.beyond > FEW * m.sums.elements)
        faults.append(_fault("other-adapter", [*foreign, *absent], of=len(modules)))
        absent = []
    if absent:
        faults.append(_fault("not-merged" if len(absent) == len(modules) else "partly-merged", absent, of=len(modules)))
    faults += _scales(scaled, [multiples[id(m)] for m in scaled])
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


def _split(modules: Sequence[Module], test: Callable[[Module], bool], each: Each = map) -> tuple[list[Module], list[Module]]:
    """Those that pass and those that do not."""
    passed: list[Module] = []
    failed: list[Module] = []
    for module, result in zip(modules, each(test, modules), strict=True):
        (passed if result else failed).append(module)
    return passed, failed


def _is_foreign(odd: Sequence[Module], of: int) -> bool:
    foreign = [m for m in odd if m.sums.beyond > FEW * m.sums.elements]
    return len(foreign) * 2 > of and all(suspects.low_rank(m.base, m.merged, m.update.shape) for m in foreign[:4])


def _scales(modules: Sequence[Module], found: Sequence[tuple[float, tuple[str, ...]]]) -> list[Fault]:
    """One fault when one mistake explains all, else one for each of two, else one without a name."""
    if not modules:
        return []
    common = [cause for cause in found[0][1] if all(cause in causes for _, causes in found)]
    if common:
        if common[0] == "merged-twice" and len(common) > 1:
            both, once = suspects.twice(modules[0])
            common = common if both >= once else [*common[1:], common[0]]
        return [_scale_fault(common[0], modules, candidates=common)]
    groups: dict[str, list[Module]] = {}
    for module, (_, causes) in zip(modules, found, strict=True):
        groups.setdefault(causes[0] if causes else "wrong-scale", []).append(module)
    if "wrong-scale" in groups or len(groups) > 2:
        groups = {"wrong-scale": list(modules)}
    return [_scale_fault(cause, group) for cause, group in groups.items()]


def _scale_fault(cause: str, modules: Sequence[Module], **detail: Any) -> Fault:
    first = modules[0]
    coefficients = sorted(m.sums.coefficient or 0.0 for m in modules)
    return _fault(cause, modules, rank=first.rank, alpha=first.alpha, lowest=coefficients[0], highest=coefficients[-1], **detail)
