"""LD801: the merged model is another model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.merge.findings import finding, modules, worst
from loradoctor.merge.summary import ROUNDING_LIMIT
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint
    from loradoctor.checkpoint.evidence import ModuleMerge


@rule("LD801", Severity.ERROR)
def merge_not_equivalent(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Merging the adapter into this base gives another model than running it unmerged.

    Every adapted layer was built by the installed PEFT on the base's own weights, run, merged and run again in float64,
    where rounding
    explains a difference of about 1e-15. What differs more is not a matter of precision: the merge computes something else. An
    adapter initialised with `pissa_niter_N` is a case of its own: PEFT repeats a randomised decomposition of the base at every
    load, so not even two unmerged models agree.

    Keep the adapter unmerged, or convert it with `path_initial_model_for_weight_conversion` when it is a PiSSA adapter.
    """
    unstable = modules(checkpoint, lambda m: m.status == "not-reproducible")
    if unstable:
        init = checkpoint.config.get("init_lora_weights") if checkpoint.config is not None else None
        yield finding(
            checkpoint,
            unstable,
            f"{len(unstable)} modules come out different every time the adapter is loaded (by "
            f"{worst(unstable) or 0.0:.1e} of the output)",
            f"`init_lora_weights` is `{init}`, a randomised decomposition that is repeated at each load: the trained "
            "model cannot be had again from these files alone; convert to plain LoRA before saving",
            cause="not-reproducible",
            difference=worst(unstable),
        )
    different = modules(checkpoint, lambda m: m.status == "different" and not m.shared_with)
    if different:
        yield finding(
            checkpoint,
            different,
            f"{len(different)} modules give another output once merged ({_how(different)})",
            "the merged model is not the model that was trained: keep the adapter unmerged",
            cause="algebra",
            difference=worst(different),
        )
    broken = modules(checkpoint, lambda m: m.status == "not-finite")
    if broken:
        yield finding(
            checkpoint,
            broken,
            f"{len(broken)} modules give NaN or infinity on this base",
            "look at the values of the base and of the adapter: one of them is not finite, or their product is not",
            cause="not-finite",
        )
    rounded = modules(checkpoint, lambda m: m.status == "equal" and not m.overflow and (m.rounding or 0.0) > ROUNDING_LIMIT)
    if rounded:
        ratio = max(m.rounding or 0.0 for m in rounded)
        yield finding(
            checkpoint,
            rounded,
            f"{len(rounded)} merged weights stored as {rounded[0].dtype} are further from the exact ones than rounding "
            f"explains ({ratio:.1f} times)",
            "merge into a float32 copy of the base and convert once afterwards",
            cause="rounding",
            ratio=ratio,
        )


def _how(different: Sequence[ModuleMerge]) -> str:
    return different[0].reason or f"by {worst(different) or 0.0:.1e} of the output in float64"
