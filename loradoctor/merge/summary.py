"""From one verdict per module to one verdict per adapter."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from loradoctor.checkpoint.evidence import ModuleMerge
from loradoctor.diagnostic import Check

NAME = "merge-equivalence"

LOST_WARNING = 0.1
LOST_ERROR = 0.5
"""share of the update that rounding may lose: a tenth shows in evaluations, past one half the merge is mostly noise"""

ROUNDING_LIMIT = 2.0
"""worst storage error over what rounding explains; right merges stay at or below 1, a wrong one is orders above"""

FLOAT16_MAX = 65504.0

NOISE = 2.0**-22
"""norm of the update over that of the weight below which it is the rounding of a float32 adapter, not something it has learned"""

PREDICTED = {"bfloat16": 1.66e-3, "float16": 2.07e-4, "float32": 2.53e-8}
"""norm of the rounding of normally distributed weights over their norm; within 5 % of what is measured until half is lost"""

BAD = frozenset({"different", "shared", "not-reproducible", "not-finite"})
CANNOT = frozenset({"unmergeable", "refused"})


def lost(modules: Sequence[ModuleMerge]) -> float | None:
    """The share of the adapter's update that is lost in storage: the larger of the overall and the median module's share.

    The overall share alone would hide many small updates behind one large one; the worst module alone would condemn an adapter
    for one module that hardly changes.
    """
    known = [(m.lost, m.update) for m in modules if m.lost is not None and m.update and (m.effect or 0.0) > NOISE]
    if not known:
        return None
    overall = math.sqrt(sum((share * size) ** 2 for share, size in known) / sum(size**2 for _, size in known))
    return max(overall, statistics.median(share for share, _ in known))


def keeping(modules: Sequence[ModuleMerge]) -> tuple[str, float] | None:
    """The coarsest dtype that would keep nine tenths of the update, and the share that it would lose; None when none would.

    Predicted from the norms, see :data:`PREDICTED`; float16 only for weights that it can hold.
    """
    largest = max((m.largest for m in modules if m.largest is not None), default=math.inf)
    for dtype, rounding in PREDICTED.items():
        if dtype == "float16" and not largest < FLOAT16_MAX:
            continue
        share = lost([replace(m, lost=min(1.0, rounding / m.effect) if m.effect else None) for m in modules])
        if share is not None and share <= LOST_WARNING and not any(m.dtype == dtype for m in modules):
            return dtype, share
    return None


def effect(modules: Sequence[ModuleMerge]) -> float | None:
    """Norm of the update over the norm of the adapted weights, over all modules; None when nothing was computed."""
    known = [(m.update, m.effect) for m in modules if m.update is not None and m.effect is not None]
    if not known:
        return None
    if any(math.isinf(share) for _, share in known):
        return math.inf
    weights = sum((size / share) ** 2 for size, share in known if share)
    return math.sqrt(sum(size**2 for size, _ in known) / weights) if weights else 0.0


def stored_as(modules: Sequence[ModuleMerge]) -> str:
    """The dtype or format that most of the weights have."""
    return Counter(m.dtype for m in modules if m.dtype).most_common(1)[0][0] if any(m.dtype for m in modules) else ""


def summarise(subject: str, modules: Sequence[ModuleMerge]) -> Check:
    """The ``merge-equivalence`` entry for these modules: ``passed`` only when every one was computed and agreed.

    ``measured`` is the largest relative difference of outputs in float64 and ``bound`` what float64 explains, or, when the merge
    failed for another reason, that reason's own number and limit; ``effect`` is the norm of the update over that of the weights.
    """
    strength = effect(modules)
    status, reason, worst = _verdict(modules, strength)
    measured, bound = worst or _difference(modules)
    return Check(subject, NAME, status, reason, measured, bound, strength)


def _difference(modules: Sequence[ModuleMerge]) -> tuple[float | None, float | None]:
    known = [(m.difference, m.bound) for m in modules if m.difference is not None and m.bound]
    return max(known, key=lambda pair: pair[0] / pair[1], default=(None, None))


def _verdict(modules: Sequence[ModuleMerge], strength: float | None) -> tuple[str, str, tuple[float, float] | None]:
    if not modules:
        return "not-run", "no adapted module was found", None
    cannot = [m for m in modules if m.status in CANNOT]
    skipped = [m for m in modules if m.status == "not-run"]
    if strength is not None and strength <= NOISE and not (cannot or skipped) and not any(m.overflow for m in modules):
        return "vacuous", "the adapter changes no weight of this base, so equal outputs prove nothing", None
    if failure := _failure(modules):
        return "failed", *failure
    if cannot:
        return "not-run", f"{len(cannot)} of {len(modules)} modules cannot be merged: {cannot[0].reason}", None
    if skipped:
        return "not-run", f"{len(skipped)} of {len(modules)} modules could not be compared: {skipped[0].reason}", None
    share = lost(modules)
    kept = f"; {share:.1%} of the update is lost when stored as {stored_as(modules)}" if share is not None else ""
    plural = "module" if len(modules) == 1 else "modules"
    return "passed", f"{len(modules)} {plural} merged one by one in float64, outputs relative to each other{kept}", None


def _failure(modules: Sequence[ModuleMerge]) -> tuple[str, tuple[float, float] | None] | None:
    """Why the merge fails, with the number that shows it and the limit it exceeds; None for the difference of outputs."""
    count = len(modules)
    bad = [m for m in modules if m.status in BAD]
    overflow = [m for m in modules if m.overflow]
    rounded = [m for m in modules if (m.rounding or 0.0) > ROUNDING_LIMIT]
    share = lost(modules)
    if bad:
        return f"{len(bad)} of {count} modules give another output once merged, first `{bad[0].module}`", None
    if overflow:
        elements = sum(m.overflow for m in overflow)
        return f"{elements} merged weights overflow {overflow[0].dtype} in {len(overflow)} of {count} modules", (elements, 0.0)
    if rounded:
        ratio = max(m.rounding or 0.0 for m in rounded)
        reason = f"{len(rounded)} of {count} modules are stored further from the exact merge than rounding explains"
        return reason, (ratio, ROUNDING_LIMIT)
    if share is not None and share > LOST_ERROR:
        return f"{share:.0%} of the update is lost when the merged weights are stored as {stored_as(modules)}", (share, LOST_ERROR)
    return None
