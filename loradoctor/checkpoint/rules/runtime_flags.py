"""LD529: settings of one process, or of no effect, in a published config."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD529", Severity.INFO, "C7", "C13", "C14")
def runtime_flags(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The config holds values that belong to a running process, or that PEFT corrects on load.

    `inference_mode: false` makes whoever loads the adapter with its config train it. `runtime_config` is ignored in files. The
    literal `all-linear` is resolved anew on every base, while PEFT saves the list it stood for. A wrong `fan_in_fan_out` is
    corrected with a warning. None of it changes the outputs.

    Let `save_pretrained` write the config.
    """
    config = checkpoint.config
    if config is None:
        return
    targets = config.get("target_modules")
    found = {
        "inference_mode": (config.get("inference_mode") is False, "`inference_mode` is false, as during training"),
        "runtime_config": (bool(config.get("runtime_config")), "`runtime_config` is for a running process; PEFT ignores it in files"),
        "target_modules": (
            isinstance(targets, str) and targets.lower() == "all-linear",
            "`target_modules` is the literal `all-linear`, where PEFT saves the list that it stands for",
        ),
        "fan_in_fan_out": (_corrected(checkpoint), "`fan_in_fan_out` does not fit the layers of the base; PEFT corrects it with a warning"),
    }
    for key, (holds, message) in found.items():
        if holds:
            yield checkpoint.finding(
                message,
                key,
                of="config",
                help="nothing depends on it: save the adapter with `save_pretrained` to have it right",
                data={"cause": key.replace("_", "-")},
            )


def _corrected(checkpoint: Checkpoint) -> bool:
    loads = checkpoint.evidence.loads if checkpoint.evidence is not None else None
    return loads is not None and any(w.startswith("fan_in_fan_out is set to") for w in loads.warnings)
