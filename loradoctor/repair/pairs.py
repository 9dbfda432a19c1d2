"""The two low-rank halves of a module, where both are there."""

from __future__ import annotations

from collections.abc import Mapping

from loradoctor.checkpoint.key import Key
from loradoctor.checkpoint.methods.lora import halves


def both_halves(roles: Mapping[str, Key]) -> tuple[Key, Key] | None:
    """``lora_A`` and ``lora_B`` (or those of an embedding); None when either is missing."""
    pair = halves(roles)
    return None if pair is None or pair[0] is None or pair[1] is None else (pair[0], pair[1])
