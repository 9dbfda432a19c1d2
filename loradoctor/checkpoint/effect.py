"""Which modules of an adapter do anything, judged by the values of their halves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.key import Key
from loradoctor.checkpoint.values import TensorStats


@dataclass(frozen=True, slots=True)
class Module:
    """``fresh`` is the tensor that starts at zero, ``other`` the one that starts random; either may be absent."""

    name: str
    fresh: Key | None
    other: Key | None


def modules(checkpoint: Checkpoint) -> tuple[Module, ...]:
    """Every module with a tensor that its method initialises to zero."""
    return _modules(checkpoint)


@cache
def _pairing(peft_type: str) -> tuple[tuple[str, str], ...]:
    """(starts at zero, starts random) by method; embeddings have it the other way round (peft/tuners/lora/layer.py)."""
    if peft_type == "ADALORA":
        return (("lora_E", "lora_A"),)
    return (("lora_B", "lora_A"), ("lora_embedding_A", "lora_embedding_B"))


def _modules(checkpoint: Checkpoint) -> tuple[Module, ...]:
    if checkpoint.tensor_method.low_rank:
        pairs = _pairing(checkpoint.tensor_method.peft_type)
        if checkpoint.config is not None and checkpoint.config.get("init_lora_weights") == "mica":
            pairs = tuple((b, a) for a, b in pairs)  # MiCA freezes B at singular vectors of the base and trains A from zero
    else:
        pairs = tuple((role, "") for role in checkpoint.tensor_method.zero)
    return tuple(
        Module(name, roles.get(fresh), roles.get(other))
        for name, roles in checkpoint.by_module.items()
        for fresh, other in pairs
        if fresh in roles or other in roles
    )


def is_zero(values: Mapping[str, TensorStats], key: Key | None) -> bool:
    """Whether a half is there and all zero."""
    return key is not None and key.name in values and values[key.name].is_zero
