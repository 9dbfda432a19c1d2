"""LD523: the config has fields that no known PEFT has."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.fields import known
from loradoctor.checkpoint.wording import evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_TRAINING = re.compile(r"(^|_)(lr|learning_rate|optim\w*|dropout)(_|$)")
"""Fields that steer the training and leave no trace in how the weights are used."""


@rule("LD523", Severity.WARNING, "C10")
def unknown_config_field(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The config has fields that the PEFT this version knows does not have.

    PEFT before 0.14 stops at them with a TypeError, later ones drop them with a warning. That is harmless while the value is
    null or false. A value that is set belongs to a newer or modified PEFT and changed the training: without it the weights are
    loaded as something they are not.

    Load the adapter with the PEFT that wrote it, or remove the fields when they mean nothing.
    """
    config = checkpoint.config
    fields = known(checkpoint.method.peft_type)
    if config is None or not fields or (checkpoint.tensors and checkpoint.tensor_method is not checkpoint.method):
        return  # the config of one method under the name of another is LD521
    strange = [name for name in config.raw if name not in fields]
    active = [name for name in strange if config.raw[name] and not _TRAINING.search(name)]
    idle = [name for name in strange if name not in active]
    # Only LoRA's fields are known release by release; elsewhere a field may simply have been renamed.
    serious = checkpoint.method.low_rank
    for names, severity, what in (
        (
            active,
            Severity.WARNING if serious else Severity.INFO,
            "PEFT ignores what it sets: use the PEFT that wrote the adapter",
        ),
        (idle, Severity.INFO, "PEFT ignores it, and nothing depends on it"),
    ):
        if names:
            yield checkpoint.finding(
                f"{listed(names)} {verb(len(names), 'is not a field', 'are not fields')} of {checkpoint.method.peft_type} in "
                "any PEFT known here",
                names[0],
                of="config",
                severity=severity,
                help=what,
                data=evidence("active" if names is active else "idle", names),
            )
