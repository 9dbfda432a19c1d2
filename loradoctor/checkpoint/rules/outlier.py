"""LD707: one tensor has values far beyond those of its kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from statistics import median

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

FACTOR = 100.0
"""Times the median of the largest values of the same half in the other modules; in 38 published adapters it is never above 2."""
_FEWEST = 4


@rule("LD707", Severity.INFO, "T6")
def outlier(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The largest value of a tensor is a hundred times what is usual in this adapter.

    A flipped bit, a damaged download or a step with an exploding gradient leaves one huge value that dominates its module. A
    training may also end there, so this is information only.

    Compare with an earlier checkpoint of the same run.
    """
    values = checkpoint.values()
    kinds: dict[str, list[str]] = defaultdict(list)
    for roles in checkpoint.by_module.values():
        for role, key in roles.items():
            if key.name in values and values[key.name].absmax > 0:
                kinds[role].append(key.name)
    far = []
    for names in kinds.values():
        usual = median(values[n].absmax for n in names)
        far += [n for n in names if len(names) >= _FEWEST and values[n].absmax > FACTOR * usual]
    if far:
        yield checkpoint.finding(
            f"{counted(len(far), 'tensor')} {verb(len(far), 'has', 'have')} values more than {FACTOR:.0f} times those of the other "
            f"modules: {listed(far)}",
            key=far[0],
            help="one such value dominates its module: compare with an earlier checkpoint of the same run",
            data=evidence("outlier", far, absmax=values[far[0]].absmax),
        )
