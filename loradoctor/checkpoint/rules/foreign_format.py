"""LD509: the tensors have another tool's names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.convert import convert
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.repair.plan import Refusal

_TORCHTUNE = "adapter_model.pt"
"""The file of its own that torchtune writes beside its export."""


@rule("LD509", Severity.ERROR, "K5")
def foreign_format(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The tensors are named as another tool names them.

    kohya's scripts and ComfyUI, LyCORIS, diffusers, MLX, torchtune and llama.cpp all call the two halves of a LoRA differently; MLX
    stores them transposed, torchtune and llama.cpp have the rows of q and k in another order, kohya's scripts take the dots out of
    module names. PEFT matches nothing of it: it warns about missing keys, and the model answers like its base.

    torchtune's export to PEFT leaves the magnitudes of DoRA in its own order, and moves the rows of Qwen2, which must stay: where its
    `adapter_model.pt` lies beside the export, the two are compared.

    Load the adapter with the tool that wrote it, or convert it: `loradoctor repair DIR --output NEW` does so where the result is
    exactly the same update, and says what it lacks where it would have to guess (`--base` names the base model).
    """
    yield from checkpoint.reported("foreign-format")
    if checkpoint.faults_of("foreign-format"):
        return
    if checkpoint.foreign is not None:
        found, names = checkpoint.foreign
        refusals = [refusal for plan in convert(checkpoint).values() for refusal in plan.refusals]
        yield checkpoint.finding(
            f"{counted(len(names), 'tensor')} {'is' if len(names) == 1 else 'are'} named as in {found.title}: {listed(names)}",
            key=names[0],
            help=f"PEFT finds none of its own names and the model answers like its base: {found.way_out}{_conversion(refusals)}",
            data=evidence(found.name, names, conversion=[r.what for r in refusals]),
        )
        return
    if wrong := _misordered(checkpoint):
        yield checkpoint.finding(
            f"{counted(len(wrong), 'tensor')} of torchtune's export {verb(len(wrong), 'has', 'have')} the rows of q and k in another order "
            f"than transformers: {listed(wrong)}",
            key=wrong[0],
            help="PEFT loads them without a word and the model attends wrongly: convert torchtune's own file with "
            f"`loradoctor repair {_TORCHTUNE} --output NEW`",
            data=evidence("torchtune-export", wrong),
        )
        return
    config = checkpoint.config
    unreadable = checkpoint.weights is not None and checkpoint.faults and not checkpoint.tensors
    if config is not None and config.peft_type is None and config.get("lora_parameters") is not None and not unreadable:
        yield checkpoint.finding(
            "the config is MLX's: it has `lora_parameters` instead of `peft_type` and `r`",
            "lora_parameters",
            of="config",
            help="PEFT stops with `KeyError: 'peft_type'`: use it with mlx-lm, or convert it with `loradoctor repair`",
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


def _misordered(checkpoint: Checkpoint) -> tuple[str, ...]:
    if not (checkpoint.directory / _TORCHTUNE).is_file():
        return ()
    from loradoctor.checkpoint.convert.torchtune_export import misordered

    return misordered(checkpoint, checkpoint.directory / _TORCHTUNE)


def _conversion(refusals: Sequence[Refusal]) -> str:
    """What `repair` can do about it without a base."""
    if not refusals:
        return ". `loradoctor repair` converts it exactly"
    first = refusals[0]
    if first.evidence:
        return f". `loradoctor repair` converts it when it has {first.evidence}"
    return f". It cannot be converted exactly: {first.what}"
