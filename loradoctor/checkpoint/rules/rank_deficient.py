"""LD708: a module uses fewer directions than its rank has."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.lora import halves
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD708", Severity.INFO, "T6")
def rank_deficient(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The update of a module has a lower rank than the adapter pays for.

    Singular values of BA that are less than a millionth of the largest are rounding. They come from a converter that padded a smaller
    adapter, from merging adapters of lower rank, or from a training in which some directions never moved. A module that is hardly wider
    than the rank is left alone: square factors have such values by chance.

    Nothing has to be done; a smaller `r` would hold the same update.
    """
    if checkpoint.method.peft_type != "LORA":
        return  # AdaLoRA prunes directions by design
    found = [s for s in checkpoint.spectra() if 0 < s.directions < s.rank < min(s.shape)]
    if found:
        names = list(dict.fromkeys(s.module for s in found))
        first = found[0]
        half = (halves(checkpoint.by_module[first.module]) or (None, None))[1]
        yield checkpoint.finding(
            f"{counted(len(names), 'module')} {verb(len(names), 'uses', 'use')} fewer directions than the rank has "
            f"({first.directions} of {first.rank} in the first): {listed(names)}",
            key=half.name if half is not None else None,
            help="a smaller `r` would hold the same update",
            data=evidence("rank-deficient", names, used=first.directions, rank=first.rank),
        )
