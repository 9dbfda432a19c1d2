"""LoRA and its relatives: which tensors a module needs, which rank they have, how the update is scaled.

Formulas follow peft/tuners/lora/layer.py (`update_layer`, `get_delta_weight`) and peft/tuners/adalora/layer.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loradoctor.checkpoint.adapter_config import AdapterConfig, number
from loradoctor.checkpoint.key import Key
from loradoctor.checkpoint.target_modules import pattern_key
from loradoctor.checkpoint.tensor import TensorInfo

HALVES = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))
_INIT_R = 12
"""AdaLoraConfig.init_r's default: the rank that training starts with."""


def halves(roles: Mapping[str, Key]) -> tuple[Key | None, Key | None] | None:
    """The two low-rank factors of one module (either may be missing), None when it has neither."""
    for a, b in HALVES:
        if a in roles or b in roles:
            return roles.get(a), roles.get(b)
    return None


@dataclass(frozen=True, slots=True)
class Rank:
    """A rank and where it comes from: ``r``, ``rank_pattern``, ``init_r``, or ``default`` when the config says nothing."""

    value: int
    source: str


def expected_rank(config: AdapterConfig, module: str) -> Rank | None:
    """The rank that PEFT gives ``module`` on load; None when the config is too damaged to say."""
    if config.peft_type == "ADALORA":
        return _adalora_rank(config, module)
    patterns = config.pattern("rank_pattern")
    key = _find(patterns, module)
    value, source = (patterns[key], "rank_pattern") if key is not None else (config.get("r", 8), "r" if "r" in config.raw else "default")
    return Rank(value, source) if isinstance(value, int) and value > 0 else None


def _adalora_rank(config: AdapterConfig, module: str) -> Rank | None:
    """After pruning `rank_pattern` has a mask per module; its true entries are the rows that were saved."""
    for key, mask in config.pattern("rank_pattern").items():
        owner = re.sub(r"\.lora_E(\.[^.]+)?$", "", key)
        if owner == module and isinstance(mask, list):
            return Rank(sum(bool(v) for v in mask), "rank_pattern")
    value = config.get("init_r", _INIT_R)
    return Rank(value, "init_r") if isinstance(value, int) and value > 0 else None


def found_ranks(a: TensorInfo | None, b: TensorInfo | None) -> tuple[int | None, int | None]:
    """The ranks the two factors have: rows of A (r, in, …), columns of B (out, r, …).

    A grouped convolution divides B's columns by its groups, which only the base model knows: there A decides alone.
    """
    rank_a = a.shape[0] if a is not None and a.shape else None
    rank_b = b.shape[1] if b is not None and len(b.shape) > 1 else None
    grouped = b is not None and len(b.shape) > 2 and rank_a is not None and rank_b is not None and rank_b > 0 and rank_a % rank_b == 0
    return rank_a, rank_a if grouped else rank_b


def turned(config: AdapterConfig, module: str, roles: Mapping[str, Key], tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether both factors of ``module`` have the rank on the other axis: they are exchanged or transposed."""
    pair, rank = halves(roles), expected_rank(config, module)
    if pair is None or rank is None or pair[0] is None or pair[1] is None:
        return False
    a, b = (tensors[key.name].shape for key in pair if key is not None)
    if len(a) != 2 or len(b) != 2 or not a[1] == b[0] == rank.value:
        return False
    return not a[0] == b[1] == rank.value


def scaling_of(config: AdapterConfig, rank: Any = None, alpha: Any = None) -> float | None:
    """alpha/r, or alpha/√r with ``use_rslora``; ``rank`` and ``alpha`` override the config's (from the patterns)."""
    r = number(rank) or float(config.r)
    a = number(alpha) if alpha is not None else config.alpha
    if a is None or r <= 0:
        return None
    return a / math.sqrt(r) if config.flag("use_rslora") else a / r


def _find(patterns: Mapping[str, Any], module: str) -> str | None:
    try:
        return pattern_key(patterns, module)
    except re.error:
        return None
