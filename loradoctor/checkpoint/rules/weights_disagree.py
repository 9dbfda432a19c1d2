"""LD505: two weights files lie side by side and differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from loradoctor.checkpoint import weights
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.fault import ReadError
from loradoctor.checkpoint.tensor import TensorInfo
from loradoctor.checkpoint.wording import evidence, listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_SAME = 1e-5
"""Relative difference in scale below which two copies count as one: sums of squares in single precision are good to about 1e-6."""
_ROUNDED = 4e-3
"""The same where one copy has half precision: rounding changes each value by up to 2^-8, their rms by less."""


@rule("LD505", Severity.WARNING, "F4")
def weights_disagree(checkpoint: Checkpoint) -> Iterator[Finding]:
    """`adapter_model.bin` and `adapter_model.safetensors` hold different adapters.

    PEFT takes the safetensors file and never looks at the other, so a newer `.bin` beside it has no effect at all. It usually is
    left over from training with an older PEFT, or was copied in by hand.

    Delete the file that is not meant.
    """
    other = weights.second_file(checkpoint.directory, checkpoint.weights)
    if other is None or not checkpoint.tensors:
        return
    try:
        second = weights.read(other).tensors
    except (ReadError, OSError):
        return  # an unreadable file that nobody loads disagrees with nothing
    names = sorted(set(second) ^ set(checkpoint.tensors))
    names = names or sorted(n for n, info in second.items() if info.shape != checkpoint.tensors[n].shape)
    names = names or _unequal(checkpoint, other, second)
    if names:
        yield Finding(
            f"`{other.name}` is another adapter than `{weights.SAFETENSORS}`: they differ in {listed(names)}",
            checkpoint.finding("", of="weights").location,
            help="PEFT loads the safetensors file and ignores the other: delete the one that is not meant",
            data=evidence("two-files", names),
        )


def _unequal(checkpoint: Checkpoint, other: Path, second: Mapping[str, TensorInfo]) -> list[str]:
    """The tensors whose scale differs by more than rounding to the coarser of the two dtypes explains."""
    from loradoctor.checkpoint.values import measure

    try:
        left, right = checkpoint.values(), measure(other, second)
    except OSError:
        return []
    found = []
    for name in sorted(left.keys() & right.keys()):
        coarse = {checkpoint.tensors[name].dtype, second[name].dtype} - {"F32", "F64"}
        larger = max(left[name].rms, right[name].rms)
        if abs(left[name].rms - right[name].rms) > (_ROUNDED if coarse else _SAME) * larger:
            found.append(name)
    return found
