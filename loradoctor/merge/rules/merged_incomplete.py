"""LD814: something of the merged model is not there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.merge.audit_findings import findings
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint

_AGAIN = "copy or write it again"
_NOTHING = ("there is no merged model: {reason}", "`--merged` takes the directory that `save_pretrained` wrote after `merge_and_unload()`")
_CAUSES = {
    "empty": _NOTHING,
    "adapter": _NOTHING,
    "no-index": _NOTHING,
    "unreadable": ("the merged model cannot be read: {reason}", f"transformers cannot load it either: {_AGAIN}"),
    "torn": ("the merged model is damaged: {reason}", f"its other files were audited; {_AGAIN} ({{files}})"),
    "missing": (
        "{count} of {of} tensors are missing from the merged model",
        "transformers gives them random values when it loads the model, with no more than a warning: merge again",
    ),
    "shape": (
        "{count} {tensors} of the merged model have another shape than base and adapter make",
        "the model does not load, or was built from another config: merge again into the base that the adapter was trained on",
    ),
    "no-config": (
        "the merged model has no `config.json` that could be read",
        "transformers cannot load it: copy the base's, without `quantization_config`",
    ),
}


@rule("LD814", Severity.ERROR)
def merged_incomplete(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The merged model lacks tensors or files, or the directory holds no merged model at all.

    A shard that was not copied, a file that ends early, tensors that were never written: transformers fills what is missing with
    random numbers and says so in one warning among many. Each tensor of the base, and each that the adapter brings, must be
    there, or be tied to one that is.

    Copy the missing files, or merge again.
    """
    yield from findings(checkpoint, _CAUSES)
