"""LD811: an update is there, but not the right one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.merge.audit_findings import findings
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint

_AGAIN = "merge again, from the unchanged base"
_SCALE = "{count} {tensors} of the merged model got {coefficient} times the update"
_CAUSES = {
    "merged-twice": (f"{_SCALE}: the adapter was merged twice", f"the base it was merged into had it already: {_AGAIN}"),
    "subtracted": (f"{_SCALE}: it was subtracted", f"`unmerge` was called on a base without it, or a weight of -1 was given: {_AGAIN}"),
    "alpha-ignored": (f"{_SCALE}, as if `lora_alpha` / `r` were 1", f"`lora_alpha` ({{alpha}}) was ignored: {_AGAIN}"),
    "rank-ignored": (f"{_SCALE}, as if it were scaled by `lora_alpha` alone", f"whatever merged it did not divide by the rank: {_AGAIN}"),
    "rslora-ignored": (
        f"{_SCALE}: it was scaled by `lora_alpha` / r, and `use_rslora` asks for `lora_alpha` / √r (r = {{rank}})",
        f"whatever merged it does not know rsLoRA: {_AGAIN} with PEFT",
    ),
    "rslora-assumed": (
        f"{_SCALE}: it was scaled by `lora_alpha` / √r, and without `use_rslora` it is `lora_alpha` / r (r = {{rank}})",
        f"{_AGAIN} with the adapter's own config",
    ),
    "pattern-ignored": (f"{_SCALE}: `rank_pattern` or `alpha_pattern` was ignored", f"whatever merged it does not know patterns: {_AGAIN} with PEFT"),
    "wrong-scale": (f"{_SCALE} ({{lowest}} to {{highest}})", f"the scale of the config was not used: {_AGAIN}"),
    "transposed": (
        "the update was transposed before it was added to {count} of {of} {tensors}",
        f"the sides of B and A were exchanged, which only square weights let pass: {_AGAIN}",
    ),
    "shifted-layers": (
        "{count} {tensors} of the merged model got the update of another layer ({shift} further on)",
        f"whatever merged it counts the layers from another number: {_AGAIN}",
    ),
    "other-adapter": (
        "another adapter was merged: what {count} of {of} adapted {tensors} gained is of low rank and not this adapter's update",
        "it may be another checkpoint of the same run: check the adapter that was merged, or merge this one",
    ),
}  # fmt: skip


@rule("LD811", Severity.ERROR)
def merged_with_wrong_scale(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The merged model has an update, at the wrong scale, in the wrong place, or of another adapter.

    What every adapted weight gained over the base is ŝ times the adapter's update plus a rest. A right merge has ŝ = 1 to four
    digits in every dtype. 2 says merged twice, -1 subtracted, √r or 1/√r that rsLoRA was taken for LoRA or the other way round,
    r / `lora_alpha` that the scale was forgotten. Where the rest is not small, the updates of other layers and the transposed
    one were tried too. Nothing fails, and the model answers plausibly.

    Merge again with PEFT, from the base that the adapter was trained on.
    """
    yield from findings(checkpoint, _CAUSES)
