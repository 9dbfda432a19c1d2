"""From one verdict per module to one verdict per adapter."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from loradoctor.checkpoint.evidence import ModuleMerge
from loradoctor.diagnostic import Check

NAME = "merge-equivalence"

LOST_WARNING = 0.1
LOST_ERROR = 0.5
"""share of the update that rounding may lose: a tenth shows in evaluations, past one half the merge is mostly noise"""

ROUNDING_LIMIT = 2.0
"""worst storage error over what rounding explains; right merges stay at or below 1, a wrong one is orders above"""

NOISE = 2.0**-22
"""norm of the update over that of the weight below which it is the rounding of a float32 adapter, not something it has learned"""

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


def effect(modules: Sequence[ModuleMerge]) -> float | None:
    """Norm of the update over the norm of the adapted weights, over all modules; None when nothing was computed."""
    known = [(m.update, m.effect) for m in modules if m.update is not None and m.effect is not None]
    if not known:
        return None
    if any(math.isinf(share) for _, share in known):
        return math.inf
    weights = sum((size / share) ** 2 for size, share in known if share)
    return math.sqrt(sum(size**2 for size, _ in known) / weights) if weights else 0.0


def summarise(subject: str, modules: Sequence[ModuleMerge]) -> Check:
    """The ``merge-equivalence`` entry for these modules: ``passed`` only when every one was computed and agreed.

    ``measured`` is the largest relative difference of outputs in float64, ``bound`` what float64 explains, ``effect`` the
    norm of the
    update over that of the weights.
    """
    differences = [m for m in modules if m.difference is not None]
    worst = max(differences, key=lambda m: (m.difference or 0.0) / (m.bound or 1.0), default=None)
    measured, bound = (worst.difference, worst.bound) if worst else (None, None)
    strength = effect(modules)
    status, reason = _verdict(modules, strength)
    return Check(subject, NAME, status, reason, measured, bound, strength)


def _verdict(modules: Sequence[ModuleMerge], strength: float | None) -> tuple[str, str]:
    count = len(modules)
    share = lost(modules)
    bad = [m for m in modules if m.status in BAD or m.overflow or (m.rounding or 0.0) > ROUNDING_LIMIT]
    cannot = [m for m in modules if m.status in CANNOT]
    skipped = [m for m in modules if m.status == "not-run"]
    if not modules:
        return "not-run", "no adapted module was found"
    if strength is not None and strength <= NOISE and not (cannot or skipped) and not any(m.overflow for m in modules):
        return "vacuous", "the adapter changes no weight of this base, so equal outputs prove nothing"
    if bad:
        return "failed", f"{len(bad)} of {count} modules give another output once merged, first `{bad[0].module}`"
    if share is not None and share > LOST_ERROR:
        return "failed", f"{share:.0%} of the update is lost when the merged weights are stored as {modules[0].dtype}"
    if cannot:
        return "not-run", f"{len(cannot)} of {count} modules cannot be merged: {cannot[0].reason}"
    if skipped:
        return "not-run", f"{len(skipped)} of {count} modules could not be compared: {skipped[0].reason}"
    kept = f"; {share:.1%} of the update is lost when stored as {modules[0].dtype}" if share is not None else ""
    plural = "module" if count == 1 else "modules"
    return "passed", f"{count} {plural} merged one by one in float64, outputs relative to each other{kept}"
