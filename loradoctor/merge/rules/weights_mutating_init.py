"""LD807: the initialisation of the adapter rewrites the base weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Severity
from loradoctor.merge.findings import modules
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint


@rule("LD807", Severity.INFO, "C15")
def weights_mutating_init(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The adapter stands on base weights that its initialisation changed.

    PiSSA and OLoRA move a part of each base weight into the adapter before training. PEFT repeats this on every load, so the
    adapter works there; any other program applies it to the unchanged base and computes something else. `pissa_niter_N` repeats
    a randomised decomposition and never comes out the same. CorDA and LoftQ need data or packages at load that the directory does
    not have, and PEFT stops.

    Convert to plain LoRA when saving: `save_pretrained(..., path_initial_model_for_weight_conversion=...)`.
    """
    config = checkpoint.config
    init = config.get("init_lora_weights") if config is not None and checkpoint.method.peft_type == "LORA" else None
    if not isinstance(init, str):
        return
    name = init.lower()
    loads = checkpoint.evidence.loads if checkpoint.evidence is not None else None
    if name.startswith(("corda", "loftq")):
        if loads is None:  # with a base PEFT was asked: what it said is LD617
            yield _finding(checkpoint, init, "needs-data", "PEFT repeats it on load and stops without the data or packages it needs")
    elif name.startswith("pissa_niter_"):
        if not modules(checkpoint, lambda m: m.status == "not-reproducible"):  # LD801 has measured it
            yield _finding(checkpoint, init, "randomised", "it is randomised, and every load gives another model")
    elif name.startswith(("pissa", "olora")):
        what = "only PEFT repeats that; elsewhere the adapter is applied to the unchanged base"
        yield _finding(checkpoint, init, "converted-by-peft-only", what, Severity.INFO)


def _finding(checkpoint: Checkpoint, init: str, cause: str, what: str, severity: Severity = Severity.WARNING) -> Finding:
    return checkpoint.finding(
        f"`init_lora_weights` is `{init}`, which rewrites the base weights: {what}",
        "init_lora_weights",
        of="config",
        severity=severity,
        help="convert to plain LoRA when saving, with `path_initial_model_for_weight_conversion`",
        data={"cause": cause, "init": init},
    )
