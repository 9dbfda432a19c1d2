"""LD707: one tensor or one module is far beyond those of its kind."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from statistics import median

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

FACTOR = 30.0
"""Times the median of the largest values of the same half in the other modules; 71 published adapters stay below 4.3."""
PEAK = 100.0
"""Times the root mean square of the tensor itself; 71 published adapters stay below 11."""
NORM, DISTANCE = 10.0, 6.0
"""Times the median of ‖ΔW‖ in the family, up or down, and robust standard deviations of its logarithm; published: below 6.5 and 8.3."""
_FEWEST = 4


@rule("LD707", Severity.INFO, "T6")
def outlier(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A tensor has a value, or a module an update, far beyond what is usual in this adapter.

    A flipped bit, a damaged download or a step with an exploding gradient leaves one huge value that dominates its module. A module
    whose whole update is ten times larger or smaller than the same module's in other layers was scaled by mistake, comes from another
    run, or hardly got a gradient. A training may also end there, so this is information only.

    Compare with an earlier checkpoint of the same run.
    """
    tensors = _peaks(checkpoint)
    if tensors:
        yield checkpoint.finding(
            f"{counted(len(tensors), 'tensor')} {verb(len(tensors), 'has', 'have')} values far beyond what is usual in this adapter: "
            f"{listed(tensors)}",
            key=tensors[0],
            help="one such value dominates its module: compare with an earlier checkpoint of the same run",
            data=evidence("outlier", tensors, absmax=checkpoint.values()[tensors[0]].absmax),
        )
    explained = set(tensors)
    for larger in (True, False):
        modules = _unusual(checkpoint, larger=larger, explained=explained)
        if modules:
            names = list(modules)
            yield checkpoint.finding(
                f"the update of {counted(len(names), 'module')} is more than {NORM:.0f} times {'larger' if larger else 'smaller'} than "
                f"those of the same kind: {listed(names)}",
                key=modules[names[0]][0],
                help="look at what was different for these layers, or compare with an earlier checkpoint of the same run",
                data=evidence("large-update" if larger else "small-update", names, ratio=modules[names[0]][1]),
            )


def _peaks(checkpoint: Checkpoint) -> list[str]:
    """The tensors with a value beyond their own scale, or beyond that of the same half elsewhere."""
    values = checkpoint.values()
    kinds: dict[str, list[str]] = defaultdict(list)
    for roles in checkpoint.by_module.values():
        for role, key in roles.items():
            if key.name in values and values[key.name].absmax > 0 and checkpoint.tensors[key.name].is_float:
                kinds[role].append(key.name)
    usual = {role: median(values[n].absmax for n in names) if len(names) >= _FEWEST else math.inf for role, names in kinds.items()}
    return [n for role, names in kinds.items() for n in names if values[n].absmax > min(FACTOR * usual[role], PEAK * values[n].rms)]


def _unusual(checkpoint: Checkpoint, *, larger: bool, explained: set[str]) -> dict[str, tuple[str, float]]:
    """Module → (a tensor of it, ‖ΔW‖ over the family's median), where no single value already explains it."""
    from loradoctor.checkpoint.family import FEWEST, families

    found: dict[str, tuple[str, float]] = {}
    for family in families(checkpoint.spectra()):
        for member in family.members if len(family.members) >= FEWEST and family.norm > 0 else ():
            ratio, keys = member.norm / family.norm, [k.name for k in checkpoint.by_module[member.module].values()]
            beyond = ratio > NORM if larger else 0 < ratio < 1 / NORM
            if beyond and abs(family.distance(member)) > DISTANCE and explained.isdisjoint(keys):
                found.setdefault(member.module, (keys[0], ratio))
    return found
