"""LD523: the config has fields that no known PEFT has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from difflib import get_close_matches
from typing import Any

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.fields import fields as fields_of
from loradoctor.checkpoint.methods.fields import known, release
from loradoctor.checkpoint.wording import evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_TRAINING = re.compile(r"(^|_)(lr|learning_rate|optim\w*|dropout)(_|$)")
"""Fields that steer the training and leave no trace in how the weights are used."""


_MISSPELLED = 50
"""Unknown fields that are held against the known ones: nobody misspells more, and a hostile config has thousands."""


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
    meant = {name: near for name in strange[:_MISSPELLED] if (near := _meant(name, config.raw, fields))}
    for name, near in meant.items():
        yield checkpoint.finding(
            f"`{name}` is not a field of {checkpoint.method.peft_type}; `{near}` is, and the config does not have it",
            name,
            of="config",
            help=f"PEFT ignores the one and takes its default for the other: write `{near}`",
            data=evidence("misspelled", [name], meant=near),
        )
    strange = [name for name in strange if name not in meant]
    active = [name for name in strange if config.raw[name] and not _TRAINING.search(name)]
    set_ = frozenset(active)
    idle = [name for name in strange if name not in set_]
    yield from _newer(checkpoint, config)
    for names, severity, what in (
        # Other methods than LoRA were renamed much while they were written, and little depends on what they dropped.
        (
            active,
            Severity.WARNING if checkpoint.method.low_rank else Severity.INFO,
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


def _meant(name: str, raw: Mapping[str, Any], fields: Set[str]) -> str | None:
    """The field that ``name`` must be a misspelling of: nearly the same, and not in the config itself."""
    plain = {f.replace("_", "").lower(): f for f in fields}
    own = name.partition("_")[2]
    near = plain.get(name.replace("_", "").replace("-", "").lower()) or (own if own in fields and len(own) > 2 else None)
    near = near or next(iter(get_close_matches(name, fields, 1, 0.88)), None)
    return near if near is not None and near not in raw else None


def _newer(checkpoint: Checkpoint, config: AdapterConfig) -> Iterator[Finding]:
    """Fields that the release which is said to have written the config did not have: it was put together from two."""
    version = release(config.get("peft_version"))
    if version is None:
        return
    table = fields_of(checkpoint.method.peft_type)
    found = [n for n in config.raw if n in table and (since := release(table[n].since)) is not None and since > version]
    if found:
        came = table[found[0]].since
        yield checkpoint.finding(
            f"{listed(found)} {verb(len(found), 'is', 'are')} newer than PEFT {config.get('peft_version')}, which is said to have written "
            f"the config (`{found[0]}` came with {came})",
            found[0],
            of="config",
            severity=Severity.INFO,
            help="the config was edited or put together from two: make sure that it is the one of these weights",
            data=evidence("newer-than-version", found),
        )
