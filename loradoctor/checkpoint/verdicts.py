"""Judgements over all findings, for those who must not draw conclusions from a broken or empty adapter."""

from __future__ import annotations

from collections.abc import Callable

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.diagnostic import Severity
from loradoctor.registry import family

_EFFECT = frozenset({"LD702", "LD704"})


def structurally_broken(checkpoint: Checkpoint) -> str | None:
    """The first error about files, config, keys, shapes, or values that are no numbers, as one clause."""
    return _first_error(checkpoint, lambda code: code.startswith(("LD5", "LD6", "LD701")))


def effectless(checkpoint: Checkpoint) -> str | None:
    """The first error that says the adapter changes nothing, as one clause."""
    if checkpoint.config is not None and checkpoint.config.alpha == 0 and checkpoint.method.low_rank:
        return "`lora_alpha` is 0, so the update is multiplied by 0"
    return _first_error(checkpoint, _EFFECT.__contains__)


def _first_error(checkpoint: Checkpoint, wanted: Callable[[str], bool]) -> str | None:
    for rule in family("checkpoint"):
        if not wanted(rule.code):
            continue
        for finding in rule.check(checkpoint):
            if (finding.severity or rule.severity) is Severity.ERROR:
                return finding.message
    return None
