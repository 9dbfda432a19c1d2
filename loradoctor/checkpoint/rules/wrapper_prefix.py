"""LD602: torch.compile, DDP, FSDP or activation checkpointing left its name in the keys."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.wording import counted, evidence, listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_ORIGIN = {
    "_orig_mod": "torch.compile",
    "module": "DataParallel or DistributedDataParallel",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
}


@rule("LD602", Severity.ERROR, "K2")
def wrapper_prefix(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A wrapper left its name in the keys: `_orig_mod`, `module`, `_fsdp_wrapped_module`, `_checkpoint_wrapped_module`.

    The state dict was taken from the wrapped model: by torch.compile, DistributedDataParallel, FSDP or activation checkpointing.
    The plain base model has no modules of these names, so PEFT uses none of the tensors and the model answers like its base.

    Remove the component from every key, and save the unwrapped model (`accelerator.unwrap_model(model).save_pretrained(...)`;
    compile after wrapping, not before).
    """
    names = [k.name for k in checkpoint.keys if "wrapper" in k.problems]
    if names:
        wrappers = dict.fromkeys(w for k in checkpoint.keys for w in k.wrappers)
        yield checkpoint.finding(
            f"{counted(len(names), 'key')} {'holds' if len(names) == 1 else 'hold'} a wrapper's name ({listed(wrappers)}): {listed(names)}",
            key=names[0],
            help=f"{' and '.join(_ORIGIN[w] for w in wrappers)} put it there; PEFT will not find these weights and the model "
            "answers like its base. "
            "Remove it from every key and save the unwrapped model",
            data=evidence("wrapper", names, wrappers=list(wrappers)),
        )
