"""LD813: something of the adapter or of the quantized base stayed behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.merge.audit_findings import findings
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint

_CAUSES = {
    "adapter-tensors": (
        "{count} {tensors} of the adapter are left in the merged model",
        "no model has these names, so they are ignored when it is loaded: save what `merge_and_unload()` returns",
    ),
    "wrapper-tensors": (
        "{count} {tensors} of the merged model carry the names of a wrapper",
        "a model with these names does not load: its layers start at random. Save the inner model, which `merge_and_unload()` returns",
    ),
    "unknown-tensors": (
        "{count} {tensors} of the merged model mean nothing to the base's architecture",
        "they are ignored when it is loaded: remove them, or correct the names of what should have been there",
    ),
    "quantization-config": (
        "`config.json` says that the merged weights are quantized, and they are not",
        "transformers would quantize them again when loading, or refuse: remove `quantization_config` from `config.json`",
    ),
    "adapter-config": (
        "an `adapter_config.json` lies beside the merged weights",
        "transformers takes the directory for an adapter and loads the base that is named there: remove it and the adapter's weights",
    ),
}


@rule("LD813", Severity.ERROR)
def merge_leftovers(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The merged directory still holds what merging should have removed.

    A merged model has the base's tensors under the base's names. `base_layer`, `lora_A` or `modules_to_save` in a name say that
    the wrapped model was saved, and transformers ignores every such tensor. An `adapter_config.json` beside the weights makes
    transformers load the directory as an adapter. A `quantization_config` in the config of weights that are not quantized makes it
    quantize them once more.

    Save the model that `merge_and_unload()` returns into an empty directory, and take `quantization_config` out of its config.
    """
    yield from findings(checkpoint, _CAUSES)
