"""LD508: the file is readable and holds nothing that adapts a model."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods import UNKNOWN
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_GATHER = "save under `deepspeed.zero.GatheredParameters`, with `stage3_gather_16bit_weights_on_model_save`, or through "
"`accelerator.get_state_dict`"


@rule("LD508", Severity.ERROR, "T3")
def empty_weights(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The weights file holds no adapter weights.

    There is no tensor in it, or tensors of size 0, or nothing but scalars. DeepSpeed ZeRO-3 leaves such files when the
    parameters were not gathered before saving, and so does a `state_dict` patch that filters everything out. PEFT loads the
    empty file with a missing-keys warning at most, and the model answers like its base.

    Gather the parameters before `save_pretrained`, then train or save again: what is not in the file cannot be recovered.
    """
    if checkpoint.weights is None or any(f.kind not in ("unreadable-config", "unreadable-file") for f in checkpoint.faults):
        return
    tensors = checkpoint.tensors
    if not tensors:
        yield checkpoint.finding(
            f"`{checkpoint.weights.name}` holds no tensors at all",
            help=f"the model will answer like its base. Under ZeRO-3, {_GATHER}",
            data=evidence("no-tensors", ()),
        )
        return
    hollow = [name for name, info in tensors.items() if 0 in info.shape]
    scalars = [name for name, info in tensors.items() if not info.shape]
    if hollow:
        yield checkpoint.finding(
            f"{counted(len(hollow), 'tensor')} of {len(tensors)} {verb(len(hollow), 'has', 'have')} size 0: {listed(hollow)}",
            key=hollow[0],
            help=f"the parameters were partitioned when they were saved: {_GATHER}",
            data=evidence("size-zero", hollow),
        )
    elif len(scalars) == len(tensors) and checkpoint.method is UNKNOWN:
        kinds = sorted({name.rpartition(".")[2] for name in scalars})
        yield checkpoint.finding(
            f"no tensor is an adapter weight: all {len(tensors)} are single numbers ({listed(kinds)})",
            key=scalars[0],
            help="the `lora_A` and `lora_B` tensors were lost when the file was written: save again with `model.save_pretrained(...)`",
            data=evidence("only-scalars", scalars),
        )
