"""LD701: NaN or infinity among the values."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD701", Severity.ERROR, "T1")
def not_finite(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A tensor holds NaN or infinity.

    The training diverged, or a value overflowed in half precision. One such value can make every output NaN, or, worse, finite
    and wrong: fused attention turns NaN scores into plausible numbers. `merge_and_unload(safe_merge=True)` refuses, plain
    merging writes it into the base weights.

    Go back to a checkpoint before the divergence; lower the learning rate, clip gradients, train the adapter in float32.
    """
    bad = {name: stats for name, stats in checkpoint.values().items() if not stats.is_finite}
    if bad:
        names = list(bad)
        nans, infs = sum(s.nans for s in bad.values()), sum(s.infs for s in bad.values())
        what = " and ".join(filter(None, [counted(nans, "NaN") if nans else "", counted(infs, "infinity", "infinities") if infs else ""]))
        yield checkpoint.finding(
            f"{counted(len(names), 'tensor')} {verb(len(names), 'holds', 'hold')} {what}: {listed(names)}",
            key=names[0],
            help="outputs become NaN or silently wrong, and a plain merge writes it into the base weights: go back to an "
            "earlier checkpoint",
            data=evidence("not-finite", names, nan=nans, inf=infs),
        )
