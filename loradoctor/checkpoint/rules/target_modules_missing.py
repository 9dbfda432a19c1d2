"""LD613: the config does not say which modules were trained."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.wording import evidence, listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_OPTIONAL = frozenset({"TRAINABLE_TOKENS", "ADAPTION_PROMPT"})
"""Methods that find their modules without being told: the input embedding, the attention of the architecture."""


@rule("LD613", Severity.ERROR, "C5")
def target_modules_missing(checkpoint: Checkpoint) -> Iterator[Finding]:
    """`target_modules` is missing or null.

    PEFT then takes its default for the architecture, for Llama `q_proj` and `v_proj`, and silently drops the tensors of every
    other module. `save_pretrained` always writes the resolved list, so the key was removed later or the config is not PEFT's.

    Set `target_modules` to the modules that have tensors; the finding lists them.
    """
    config = checkpoint.comparable
    if config is None or config.get("target_modules") is not None or config.get("target_parameters"):
        return
    modules = checkpoint.adapted
    if modules and checkpoint.method.peft_type not in _OPTIONAL:
        names = sorted({m.rpartition(".")[2] for m in modules})
        yield checkpoint.finding(
            f"`target_modules` is {'null' if 'target_modules' in config.raw else 'missing'}, but the file has tensors for "
            f"{listed(names, 8)}",
            "target_modules",
            of="config",
            help=f"PEFT takes its default for the architecture and silently drops the rest: set it to {names}",
            data=evidence("missing", names),
        )
