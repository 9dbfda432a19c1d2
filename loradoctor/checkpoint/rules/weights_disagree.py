"""LD505: two weights files lie side by side and differ."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint import weights
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.fault import ReadError
from loradoctor.checkpoint.wording import evidence, listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_SAME = 1e-6
"""Relative difference in scale below which two copies in different dtypes count as one."""


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
    if not names:
        from loradoctor.checkpoint.values import measure

        left, right = checkpoint.values(), measure(other, second)
        names = sorted(
            n for n in left if n in right and abs(left[n].rms - right[n].rms) > _tolerance(checkpoint, n) * max(left[n].rms, right[n].rms)
        )
    if names:
        yield Finding(
            f"`{other.name}` is another adapter than `{weights.SAFETENSORS}`: they differ in {listed(names)}",
            checkpoint.finding("", of="weights").location,
            help="PEFT loads the safetensors file and ignores the other: delete the one that is not meant",
            data=evidence("two-files", names),
        )


def _tolerance(checkpoint: Checkpoint, name: str) -> float:
    # The same values rounded to half precision differ by up to 2^-8 each; their rms by less.
    return _SAME if checkpoint.tensors[name].dtype in ("F32", "F64") else 4e-3
