"""What the runtimes' tables ask about an adapter, worked out once."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loradoctor.checkpoint.adapter_config import number
from loradoctor.checkpoint.methods.lora import expected_rank, halves
from loradoctor.checkpoint.opening import opened
from loradoctor.checkpoint.target_modules import layer_index, pattern_key

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint
    from loradoctor.checkpoint.key import Key

_VISION = re.compile(
    r"(?:^|\.)(?:vision_tower|vision_model|vision_encoder|visual|vision|image_encoder|audio_tower|audio_encoder"
    r"|multi_modal_projector|mm_projector|connector)\."
)
_LIMIT = 4 << 20
"""Bytes of a base's `config.json` that are read; the largest known has 60 kB."""


@dataclass(frozen=True, slots=True)
class Adapted:
    """One module with LoRA halves: its rank as the tensors show it and its alpha as PEFT takes it from the config."""

    module: str
    rank: int | None
    alpha: float | None
    a: tuple[int, ...]
    b: tuple[int, ...]

    @property
    def short(self) -> str:
        """Last component of the module's path."""
        return self.module.rpartition(".")[2]


class Facts:
    """An adapter as the tables of the runtimes see it. Wraps a checkpoint and reads nothing of it anew."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.raw: Mapping[str, Any] = checkpoint.config.raw if checkpoint.config is not None else {}

    def get(self, key: str) -> Any:
        """A raw config value, None when missing."""
        return self.raw.get(key)

    @cached_property
    def mlx(self) -> bool:
        """Whether the directory is one that mlx-lm writes."""
        weights = self.checkpoint.weights
        return "peft_type" not in self.raw and (
            "lora_parameters" in self.raw or (weights is not None and weights.name == "adapters.safetensors")
        )

    @cached_property
    def readable(self) -> bool:
        """Whether there are a config and tensors to judge by."""
        return self.checkpoint.config is not None and bool(self.checkpoint.tensors)

    @cached_property
    def adapted(self) -> tuple[Adapted, ...]:
        """The modules that have halves, in the order of the file."""
        config, tensors = self.checkpoint.config, self.checkpoint.tensors
        found: list[Adapted] = []
        for module, roles in self.checkpoint.by_module.items():
            pair = halves(roles)
            if pair is None or config is None:
                continue
            a, b = (tensors[key.name].shape if key is not None else () for key in pair)
            wanted = expected_rank(config, module)
            rank = a[0] if a else b[1] if len(b) > 1 else None
            if len(a) == len(b) == 2 and a[0] != b[1] and wanted is not None:
                rank = wanted.value  # block-diagonal or grouped halves: the config knows
            found.append(Adapted(module, rank, self._alpha(module), a, b))
        return tuple(found)

    def _alpha(self, module: str) -> float | None:
        config = self.checkpoint.config
        if config is None:
            return None
        patterns = config.pattern("alpha_pattern")
        try:
            key = pattern_key(patterns, module)
        except re.error:
            key = None
        return config.alpha if key is None else number(patterns[key])

    @cached_property
    def rank(self) -> int:
        """`r`, as PEFT takes it."""
        return self.checkpoint.config.r if self.checkpoint.config is not None else 8

    @cached_property
    def ranks(self) -> frozenset[int]:
        """Every rank that a module has."""
        return frozenset(a.rank for a in self.adapted if a.rank)

    @cached_property
    def largest_rank(self) -> int:
        """The largest rank of a module, or of the config when there are no tensors."""
        return max((*self.ranks, self.rank))

    @cached_property
    def alpha(self) -> float | None:
        """`lora_alpha`, as PEFT takes it."""
        return self.checkpoint.config.alpha if self.checkpoint.config is not None else None

    @cached_property
    def alpha_without_rslora(self) -> float | None:
        """The `lora_alpha` that scales the same without `use_rslora`; None when modules differ in rank."""
        if self.alpha is None or len(self.ranks) > 1 or self.other_alphas:
            return None
        return self.alpha * math.sqrt(next(iter(self.ranks), self.rank))

    @cached_property
    def other_alphas(self) -> tuple[str, ...]:
        """Modules that `alpha_pattern` gives another alpha than `lora_alpha`."""
        return tuple(a.module for a in self.adapted if a.alpha is not None and a.alpha != self.alpha)

    @cached_property
    def other_ranks(self) -> tuple[str, ...]:
        """Modules of another rank than `r`."""
        return tuple(a.module for a in self.adapted if a.rank and a.rank != self.rank)

    def keys(self, *roles: str) -> tuple[Key, ...]:
        """The tensors with one of these roles."""
        return tuple(k for k in self.checkpoint.keys if k.role in roles)

    @cached_property
    def whole(self) -> tuple[Key, ...]:
        """Tensors of modules that were saved whole: neither adapters nor biases."""
        return tuple(k for k in self.checkpoint.keys if k.role in ("", "modules_to_save") and k.suffix != "bias")

    @cached_property
    def biases(self) -> tuple[Key, ...]:
        """Biases of the base that were trained along."""
        heads = {k.module for k in self.whole}
        return tuple(k for k in self.checkpoint.keys if k.role in ("", "base_layer") and k.suffix == "bias" and k.module not in heads)

    @cached_property
    def vision(self) -> tuple[str, ...]:
        """Adapted modules of another tower than the language model's."""
        return tuple(a.module for a in self.adapted if _VISION.search(a.module))

    @cached_property
    def fused(self) -> tuple[str, ...]:
        """Adapted parameters of fused experts: their tensors stand at the module of the experts."""
        return tuple(a.module for a in self.adapted if a.short == "experts")

    @cached_property
    def layers(self) -> Mapping[str, frozenset[int]]:
        """What follows the layer number of a module (`self_attn.q_proj`) → the layers that have it."""
        found: dict[str, set[int]] = {}
        for adapted in self.adapted:
            index = layer_index(f"{adapted.module}.")
            if index is not None and not _VISION.search(adapted.module):
                found.setdefault(adapted.module.partition(f".{index}.")[2], set()).add(index)
        return {kind: frozenset(indices) for kind, indices in found.items()}

    @cached_property
    def base_config(self) -> Mapping[str, Any] | None:
        """The base's `config.json`, its `text_config` spread over it, when the base is at hand."""
        evidence = self.checkpoint.evidence
        base = evidence.base if evidence is not None else None
        if base is None:
            return None
        try:
            with opened(Path(base) / "config.json") as file:
                found = json.loads(file.read(_LIMIT))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(found, dict):
            return None
        text = found.get("text_config")
        return {**found, **text} if isinstance(text, dict) else found

    @cached_property
    def vocabulary(self) -> int | None:
        """How many tokens the base embeds, when it is at hand."""
        value = (self.base_config or {}).get("vocab_size")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @cached_property
    def depth(self) -> int | None:
        """How many layers the base has, when it is at hand."""
        value = (self.base_config or {}).get("num_hidden_layers")
        return value if isinstance(value, int) and not isinstance(value, bool) else None
