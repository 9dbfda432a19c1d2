"""LD706: the values lie where half precision ends."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.key import Key
from loradoctor.checkpoint.methods.lora import halves, scaling_of
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

TINY, LARGEST = 2.0**-14, 65504.0
"""Smallest normal and largest finite float16 (IEEE 754 binary16)."""


@rule("LD706", Severity.WARNING, "T4")
def precision_range(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Float16 values that are below its normal range, or whose product is beyond its largest number.

    Below 6.1e-5 float16 has fewer and fewer bits and then none: a tensor whose typical value lies there keeps little of what was
    trained. Above 65504 it has only infinity: the factors are finite, their product is not, and merging into a float16 base
    writes infinities, without a word unless `safe_merge=True`.

    Save the adapter in float32 or bfloat16, and look at the learning rate when the values themselves are extreme.
    """
    if checkpoint.foreign is not None:
        return
    values = checkpoint.values()
    faint = [
        n for n, s in values.items() if checkpoint.tensors[n].dtype == "F16" and s.is_finite and not s.is_zero and s.count and s.rms < TINY
    ]
    if faint:
        yield checkpoint.finding(
            f"{counted(len(faint), 'float16 tensor')} {verb(len(faint), 'has', 'have')} typical values below the normal range "
            f"(rms under {TINY:.1e}): {listed(faint)}",
            key=faint[0],
            help="most of their precision is lost: save the adapter in float32 or bfloat16",
            data=evidence("subnormal", faint),
        )
    huge = [module for module, roles in checkpoint.by_module.items() if _overflows(checkpoint, halves(roles))]
    if huge:
        yield checkpoint.finding(
            f"the update of {counted(len(huge), 'module')} exceeds {LARGEST:.0f}, the largest float16: {listed(huge)}",
            key=next(iter(checkpoint.by_module[huge[0]].values())).name,
            help="merging into a float16 base writes infinities; keep the adapter unmerged or merge in float32, and look at why the "
            "values are so large",
            data=evidence("overflow", huge),
        )


def _overflows(checkpoint: Checkpoint, pair: tuple[Key | None, Key | None] | None) -> bool:
    """Whether an element of scaling · B · A is beyond float16; the product is formed only when its bound is."""
    config = checkpoint.comparable
    if config is None or pair is None or pair[0] is None or pair[1] is None or checkpoint.weights is None:
        return False
    infos = [checkpoint.tensors[k.name] for k in pair if k is not None]
    stats = [checkpoint.values().get(k.name) for k in pair if k is not None]
    scaling = scaling_of(config)
    if scaling is None or any(i.dtype != "F16" or len(i.shape) != 2 for i in infos):
        return False
    if any(s is None or not s.is_finite for s in stats) or infos[0].shape[0] != infos[1].shape[1]:
        return False
    bound = abs(scaling) * infos[0].shape[0]
    for s in stats:
        bound *= s.absmax if s is not None else 0.0
    if bound <= LARGEST:
        return False
    from loradoctor.checkpoint.values import load

    a, b = (load(checkpoint.weights, info) for info in infos)
    return any(float(abs(b[start : start + 256] @ a).max()) * abs(scaling) > LARGEST for start in range(0, b.shape[0], 256))
