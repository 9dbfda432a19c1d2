"""LD521: the config names no method, an unknown one, or another than the tensors are of."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods import METHODS, UNKNOWN
from loradoctor.checkpoint.methods.fields import is_newer, newest
from loradoctor.checkpoint.wording import listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD521", Severity.ERROR, "C8")
def unknown_method(checkpoint: Checkpoint) -> Iterator[Finding]:
    """`peft_type` is missing, unknown, or not what the tensors are.

    PEFT looks the value up exactly as written and stops with a bare `KeyError`: `lora` is not `LORA`, and `BONE` left PEFT in
    0.19. With another method's name the tensors match nothing, and the model answers like its base. A value that no release has
    comes from a development version: only that version can load the adapter.

    Correct the value, or install the PEFT that wrote the adapter.
    """
    config = checkpoint.config
    if config is None or checkpoint.faults_of("foreign-format") or (config.peft_type is None and config.get("lora_parameters")):
        return
    value = config.get("peft_type")
    actual = checkpoint.tensor_method
    hint = f"the tensors are those of {actual.peft_type}" if actual is not UNKNOWN and checkpoint.foreign is None else ""
    if value is None:
        if checkpoint.foreign is None:
            yield checkpoint.finding(
                "`peft_type` is missing: the config does not say which method this is",
                "peft_type",
                of="config",
                help="; ".join(filter(None, ["PEFT stops with `KeyError: 'peft_type'`", hint])),
                data={"cause": "missing", "tensors": actual.peft_type or None},
            )
    elif checkpoint.method is UNKNOWN:
        fitting = METHODS.get(str(value).upper().replace("-", "_"))
        version = config.get("peft_version")
        if not fitting and isinstance(value, str) and is_newer(version):
            yield checkpoint.finding(
                f"`{value}` comes from PEFT {version}, and {newest()} is the newest known here: the method is not checked",
                "peft_type",
                of="config",
                severity=Severity.INFO,
                help="only a PEFT as new as that can load it; a newer loradoctor may know it",
                data={"cause": "newer", "tensors": actual.peft_type or None},
            )
            return
        yield checkpoint.finding(
            f"`{value}` is not a method that any known PEFT release has" + (f"; `{fitting.peft_type}` is" if fitting else ""),
            "peft_type",
            of="config",
            severity=Severity.ERROR if fitting or not isinstance(value, str) else Severity.WARNING,
            help="; ".join(
                filter(
                    None,
                    [
                        f"PEFT stops with `KeyError: '{value}'`",
                        hint,
                        "" if fitting else "only the version that wrote it can load it",
                    ],
                )
            ),
            data={"cause": "spelling" if fitting else "unknown", "tensors": actual.peft_type or None},
        )
    elif actual is not checkpoint.method and checkpoint.tensors and checkpoint.foreign is None:
        roles = sorted({k.role for k in checkpoint.keys if k.role})
        yield checkpoint.finding(
            f"the config says {value}, but the tensors ({listed(roles)}) are those of {actual.peft_type}",
            "peft_type",
            of="config",
            help=f"none of them is used and the model answers like its base: set `peft_type` to `{actual.peft_type}` and add "
            "what that method needs",
            data={"cause": "other-method", "tensors": actual.peft_type},
        )
    elif checkpoint.method.until is not None:
        yield checkpoint.finding(
            f"`{value}` was removed in PEFT {checkpoint.method.until}",
            "peft_type",
            of="config",
            severity=Severity.ERROR if _refused(checkpoint) else Severity.WARNING,
            help=f"newer releases stop with `KeyError: '{value}'`: use PEFT < {checkpoint.method.until}, or convert the "
            "adapter to its successor MISS",
            data={"cause": "removed", "tensors": actual.peft_type or None},
        )


def _refused(checkpoint: Checkpoint) -> bool:
    """Whether the installed PEFT was asked and raised."""
    loads = checkpoint.evidence.loads if checkpoint.evidence is not None else None
    return loads is not None and bool(loads.error_type)
