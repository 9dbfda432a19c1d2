"""LD703: some modules of the adapter do nothing."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.effect import is_zero, modules
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD703", Severity.WARNING, "T2")
def dead_modules(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Some modules of the adapter are zero while others were trained.

    No gradient ever reached them: they are not used in the forward pass, sit behind a detached branch, or were left out of the
    optimizer. Experts that were never routed to, and modules that AdaLoRA pruned, are zero by design and reported as information.

    Leave them out of `target_modules`, or find out why they were not trained.

    A `lora_magnitude_vector` of zeros is worse: DoRA scales the base weight to that length, so the module answers with its bias alone. It
    starts as the length of the base weight, and only a failed gather or conversion brings it to zero.
    """
    values = checkpoint.values()
    erased = [k for k in checkpoint.keys if k.role == "lora_magnitude_vector" and is_zero(values, k)]
    if erased:
        yield checkpoint.finding(
            f"the magnitude of {counted(len(erased), 'module')} is zero: {listed(k.module for k in erased)}",
            key=erased[0].name,
            help="DoRA scales the base weight to this length, so nothing is left of it: go back to the file before it was converted or gathered",
            data=evidence("zero-magnitude", [k.name for k in erased]),
        )
    found = modules(checkpoint)
    fresh = [m for m in found if is_zero(values, m.fresh)]
    dead = fresh + [m for m in found if m not in fresh and is_zero(values, m.other)]
    both = [m for m in found if m.fresh is not None and not is_zero(values, m.fresh)]
    if not dead or not both or all(is_zero(values, m.other) for m in found):
        return  # LD702 and LD704 are about adapters that are dead as a whole
    names = [m.name for m in dead]
    designed = checkpoint.method.peft_type == "ADALORA" or all("expert" in n for n in names)
    keys = [k.name for m in dead for k in (m.fresh, m.other) if is_zero(values, k) and k is not None]
    yield checkpoint.finding(
        f"{counted(len(names), 'module')} of {len(found)} {verb(len(names), 'does', 'do')} nothing, one half is zero: {listed(names)}",
        key=keys[0],
        severity=Severity.INFO if designed else Severity.WARNING,
        help="no training step reached them: leave them out of `target_modules`, or find out why they were not trained",
        data=evidence("pruned" if checkpoint.method.peft_type == "ADALORA" else "dead", names),
    )
