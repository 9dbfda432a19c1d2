"""LD704: the half that starts random is zero everywhere."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.effect import is_zero, modules
from loradoctor.checkpoint.wording import evidence, listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD704", Severity.ERROR, "T2")
def zero_a(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Every `lora_A` is zero although `lora_B` is not.

    `lora_A` starts random, and training does not bring it to exactly zero. It was lost: underflow in a conversion to half
    precision or fp8, a failed gather, a converter that filled in what it did not find. The product is zero and the model answers
    like its base.

    Go back to the file that the conversion started from.
    """
    values = checkpoint.values()
    found = [m for m in modules(checkpoint) if m.other is not None]
    if found and all(is_zero(values, m.other) for m in found) and any(m.fresh is not None and not is_zero(values, m.fresh) for m in found):
        names = [m.other.name for m in found if m.other is not None]
        roles = list(dict.fromkeys(m.other.role for m in found if m.other is not None))
        yield checkpoint.finding(
            f"{listed(roles)} is zero in {'the one module' if len(found) == 1 else f'all {len(found)} modules'}: its values were lost",
            key=names[0],
            help="the update is zero and the model answers like its base: go back to the file before the conversion",
            data=evidence("zero-a", names),
        )
