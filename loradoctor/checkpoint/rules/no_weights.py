"""LD501: there is no file that PEFT would load."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD501", Severity.ERROR, "F1")
def no_weights(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The directory has no weights under a name that PEFT reads.

    PEFT looks for `adapter_model.safetensors`, then `adapter_model.bin`. When neither is there it takes the path for a hub
    repository and stops with a misleading `HFValidationError: Repo id must be in the form ...`. What is not read: shards
    (`adapter_model-00001-of-00002.safetensors`), `model.safetensors` and `pytorch_model.bin`, the parts that DeepSpeed and FSDP
    leave (`global_step*`, `mp_rank_*`, `*.distcp`), and adapter tensors among the weights of a full model, which transformers drops
    with a warning.

    Rename the file, join the shards (`loradoctor repair` does both), gather the parts with `zero_to_fp32.py` or
    `accelerate merge-weights`, or save again with `model.save_pretrained(directory)`.
    """
    yield from checkpoint.reported("no-weights")
