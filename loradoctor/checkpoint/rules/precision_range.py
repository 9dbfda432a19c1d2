"""LD706: the values lie where half precision ends."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.lora import HALVES
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

ROUNDING = 2.0**-24 / 12**0.5
"""Standard deviation of the error of rounding to float16 below 2^-13, where its numbers are 2^-24 apart (IEEE 754 binary16)."""
LOST = 2.0**-8
"""Share of a tensor's typical value that rounding may cost: the worst that bfloat16 does to any value. Published adapters lose less than a
seventh of that."""
_HALVES = frozenset(role for pair in HALVES for role in pair)
LARGEST = 65504.0
"""The largest finite float16."""


@rule("LD706", Severity.WARNING, "T4")
def precision_range(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Float16 values that are too small for its precision, or an update with elements beyond its largest number.

    Below 6.1e-5 float16 numbers are equally far apart, so smaller values have fewer bits and then none: a tensor whose typical value is
    below 4.4e-6 keeps less of what was trained than bfloat16 would. Above 65504 there is only infinity: the factors are finite, their
    product is not, and merging into a float16 base writes infinities, without a word unless `safe_merge=True`.

    Save the adapter in float32 or bfloat16, and look at the learning rate when the values themselves are extreme.
    """
    if checkpoint.foreign is not None:
        return
    values = checkpoint.values()
    faint = [
        n
        for n, s in values.items()
        if checkpoint.tensors[n].dtype == "F16" and s.is_finite and s.count and not s.is_zero and LOST * s.rms < ROUNDING
    ]
    if faint:
        first = values[faint[0]]
        yield checkpoint.finding(
            f"{counted(len(faint), 'float16 tensor')} {verb(len(faint), 'has', 'have')} typical values below {ROUNDING / LOST:.1e}, where "
            f"few bits are left: {listed(faint)}",
            key=faint[0],
            help="rounding has cost more than bfloat16 would have: save the adapter in float32 or bfloat16",
            data=evidence("subnormal", faint, rms=first.rms, subnormal=first.subnormals / first.count, zero=first.zeros / first.count),
        )
    huge = _overflowing(checkpoint)
    if huge:
        yield checkpoint.finding(
            f"the update of {counted(len(huge), 'module')} exceeds {LARGEST:.0f}, the largest float16: {listed(huge)}",
            key=next(iter(checkpoint.by_module[huge[0]].values())).name,
            help="merging into a float16 base writes infinities; keep the adapter unmerged or merge in float32, and look at why the "
            "values are so large",
            data=evidence("overflow", huge),
        )


def _overflowing(checkpoint: Checkpoint) -> list[str]:
    """The modules stored in float16 with an element of ΔW beyond it; a product is only formed where its singular values allow one.

    Whether the base of an adapter in another dtype has room for such an element is known when the base is (LD803).
    """
    suspected = list(dict.fromkeys(s.module for s in checkpoint.spectra() if s.largest > LARGEST and _in_half(checkpoint, s.module)))
    if not suspected:
        return []
    from loradoctor.checkpoint.delta import exceeds, updates

    plans = {u.module: u for u in updates(checkpoint)}
    return [module for module in suspected if exceeds(checkpoint, plans[module], LARGEST)]


def _in_half(checkpoint: Checkpoint, module: str) -> bool:
    return all(checkpoint.tensors[key.name].dtype == "F16" for role, key in checkpoint.by_module[module].items() if role in _HALVES)
