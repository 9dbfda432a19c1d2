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
    repository and stops with a misleading `HFValidationError: Repo id must be in the form ...`. Shards
    (`adapter_model-00001-of-00002.safetensors`), `model.safetensors` and `pytorch_model.bin` are not read.

    Rename the file, join the shards into one `adapter_model.safetensors`, or save again with `model.save_pretrained(directory)`.
    """
    yield from checkpoint.reported("no-weights")
