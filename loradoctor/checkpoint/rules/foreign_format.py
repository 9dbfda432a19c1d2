"""LD509: the tensors have another tool's names."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.wording import counted, evidence, listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD509", Severity.ERROR, "K5")
def foreign_format(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The tensors are named as another tool names them.

    kohya's scripts, diffusers' older processors, MLX and torchtune all call the two halves of a LoRA differently, and MLX stores
    them transposed. Under a PEFT file name such tensors match nothing: PEFT warns about missing keys and the model answers like
    its base.

    Load the adapter with the tool that wrote it, or convert it: names, orientation and scale, in this order.
    """
    yield from checkpoint.reported("foreign-format")
    if checkpoint.faults_of("foreign-format"):
        return
    if checkpoint.foreign is not None:
        found, names = checkpoint.foreign
        yield checkpoint.finding(
            f"{counted(len(names), 'tensor')} {'is' if len(names) == 1 else 'are'} named as in {found.title}: {listed(names)}",
            key=names[0],
            help=f"PEFT finds none of its own names and the model answers like its base: {found.way_out}",
            data=evidence(found.name, names),
        )
        return
    config = checkpoint.config
    if config is not None and config.peft_type is None and config.get("lora_parameters") is not None:
        yield checkpoint.finding(
            "the config is MLX's: it has `lora_parameters` instead of `peft_type` and `r`",
            "lora_parameters",
            of="config",
            help="PEFT stops with `KeyError: 'peft_type'`: convert the config (alpha = scale x rank) and the tensors, or use it with mlx-lm",
            data=evidence("mlx", ("lora_parameters",)),
        )
        return
    bare = [k.name for k in checkpoint.keys if k.role in ("lora_A", "lora_B") and not k.suffix and k.adapter is None]
    if checkpoint.method.peft_type == "LORA" and bare and "lora_E" not in {k.role for k in checkpoint.keys}:
        yield checkpoint.finding(
            f"{counted(len(bare), 'tensor')} {'lacks' if len(bare) == 1 else 'lack'} the ending `.weight` that PEFT gives "
            f"them: {listed(bare)}",
            key=bare[0],
            help="PEFT does not find them and the model answers like its base: append `.weight` to the names",
            data=evidence("no-weight-suffix", bare),
        )
