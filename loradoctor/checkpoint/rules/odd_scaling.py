"""LD527: the factor on the update is far from what anybody trains with."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.lora import scaling_of
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

LOW, HIGH = 0.05, 64.0
"""Of 112 published LoRA configs none is outside 0.125 … 32."""


@rule("LD527", Severity.WARNING, "C2")
def odd_scaling(checkpoint: Checkpoint) -> Iterator[Finding]:
    """`lora_alpha` is missing, negative, or gives an extreme scaling.

    The update is multiplied by alpha/r (alpha/√r with rsLoRA), and nothing in the tensors records the value they were trained
    with: a changed or lost `lora_alpha` loads silently and gives another model. When the key is missing PEFT takes 8.

    Set `lora_alpha` to the value of the training run.
    """
    config = checkpoint.config
    if config is None or not checkpoint.method.low_rank:
        return
    if "lora_alpha" not in config.raw:
        yield checkpoint.finding(
            "`lora_alpha` is missing, so PEFT takes 8",
            "lora_alpha",
            of="config",
            help="if the adapter was trained with another value, its update is scaled wrongly and nothing says so: write the value down",
            data={"cause": "missing"},
        )
        return
    scaling = scaling_of(config)
    if scaling is None or checkpoint.method.peft_type != "LORA" or scaling == 0:
        return
    if scaling < 0:
        cause, what = "negative", "the update is subtracted instead of added"
    elif not LOW <= scaling <= HIGH:
        cause, what = "extreme", "either the adapter hardly acts or it drowns the base model"
    else:
        return
    yield checkpoint.finding(
        f"`lora_alpha` {config.get('lora_alpha')} with rank {config.r} gives the scaling {scaling:g}",
        "lora_alpha",
        of="config",
        help=f"{what}: compare with the training run",
        data={"cause": cause, "scaling": scaling},
    )
