"""LD804: there is no merged model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.merge.findings import finding, modules
from loradoctor.merge.quantization import of
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint


@rule("LD804", Severity.INFO)
def cannot_merge(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The adapter cannot be merged into its base.

    Some methods have nothing to merge: prompt and prefix tuning add inputs, Lily, POLY, SHADOW and aLoRA depend on the input. Some
    bases cannot be merged into: PEFT raises on GPTQ, AWQ and most other quantized weights. That is worth knowing before one plans
    to serve a merged model. It is an error when the method merges and this adapter does not, as with `lora_bias=True` on layers
    that have no bias: `merge_and_unload()` stops half way.

    Serve such an adapter unmerged, or train again without the option that stands in the way. An adapter of a quantized base merges
    into the 16-bit model that the base was made of; quantize the result again if it has to be small.
    """
    reason = checkpoint.evidence.unmergeable if checkpoint.evidence is not None else ""
    if reason:
        yield checkpoint.finding(
            f"the adapter cannot be merged: {reason}",
            of="directory",
            help="serve it unmerged",
            data={"cause": "method"},
        )
    by_design = modules(checkpoint, lambda m: m.status == "unmergeable")
    if by_design:
        yield finding(
            checkpoint,
            by_design,
            f"{len(by_design)} modules cannot be merged ({by_design[0].reason})",
            "serve the adapter unmerged",
            cause="method",
        )
    refused = modules(checkpoint, lambda m: m.status == "refused")
    if refused:
        yield finding(
            checkpoint,
            refused,
            f"merging stops in {len(refused)} modules ({refused[0].reason})",
            "`merge_and_unload()` raises half way: serve the adapter unmerged, or train again without the option that "
            "stands in the way",
            Severity.ERROR,
            cause="refused",
        )
    quantized = of(checkpoint.evidence.facts.get("base_quantization")) if checkpoint.evidence is not None else None
    if quantized is not None and quantized.refuses and not (reason or by_design or refused):
        yield checkpoint.finding(
            f"the base is stored as {quantized.title}, and PEFT does not merge into that: {quantized.refuses}",
            of="directory",
            help="serve it unmerged, or merge it into the 16-bit model that the base was quantized from",
            data={"cause": "quantized-base", "quantization": quantized.title},
        )
