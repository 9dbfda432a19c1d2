"""LD612: the tensors belong to a variant of LoRA that the config does not switch on, or the reverse."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.lora import halves
from loradoctor.checkpoint.wording import counted, evidence, listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_VARIANTS = (
    ("use_dora", "lora_magnitude_vector", "DoRA's magnitudes"),
    ("lora_bias", "lora_B.bias", "biases of `lora_B`"),
)
"""Config flag, the role that only this variant has, and how to call it."""


@rule("LD612", Severity.ERROR, "C3", "C4")
def flag_lost(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The tensors are those of DoRA or of `lora_bias`, and the config does not say so (or the reverse).

    Without `use_dora` PEFT silently drops the magnitudes and applies a plain LoRA, which is another model; without `lora_bias`
    it drops the biases. With the flag and without the tensors they stay at their initial value.

    Set the flag as it was in training.
    """
    config = checkpoint.comparable
    if config is None or checkpoint.method.peft_type != "LORA":
        return
    pairs = [m for m, roles in checkpoint.by_module.items() if halves(roles) is not None and not any("embedding" in r for r in roles)]
    for flag, role, title in _VARIANTS:
        having = [m for m, roles in checkpoint.by_module.items() if role in roles]
        lacking = [m for m in pairs if role not in checkpoint.by_module[m]]
        if having and not config.flag(flag):
            yield checkpoint.finding(
                f"the file has {title} for {counted(len(having), 'module')}, but `{flag}` is not set: {listed(having)}",
                key=checkpoint.by_module[having[0]][role].name,
                help=f"PEFT drops them silently and the model differs from the trained one: set `{flag}` to true",
                data=evidence("flag-lost", having, flag=flag),
            )
        elif lacking and config.flag(flag):
            yield checkpoint.finding(
                f"`{flag}` is set, but {counted(len(lacking), 'module')} {'lacks' if len(lacking) == 1 else 'lack'} {title}: "
                f"{listed(lacking)}",
                flag,
                of="config",
                help=f"they stay at their initial value: set `{flag}` to false if the adapter was trained without, else save it again",
                data=evidence("tensors-lost", lacking, flag=flag),
            )
