"""What every conversion ends in: modules with their tensors, rank and factor, put together to a plan."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loradoctor.checkpoint import weights
from loradoctor.checkpoint.adapter_config import AdapterConfig, number
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.convert.base_model import BaseModel
from loradoctor.checkpoint.target_modules import decide, pattern_key
from loradoctor.checkpoint.tensor import TensorInfo
from loradoctor.checkpoint.wording import listed
from loradoctor.repair.plan import ABSENT, ConfigStep, Drop, Origin, Plan, Refusal, TensorStep, Transform

_PREFIX = "base_model.model."
_SHORT = 8
"""Module names up to which `target_modules` stays readable when every name is written out."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of the source and what is done to it; ``why`` is a clause for the report."""

    source: str
    transforms: tuple[Transform, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """One adapted module: ``tensors`` by their name below the module (``lora_A.weight``), rank, and alpha.

    The factor of the update is ``alpha / rank``.
    """

    module: str
    rank: int
    alpha: float
    tensors: Mapping[str, Piece]


@dataclass(frozen=True, slots=True)
class Material:
    """What a converter found out about one component of the source.

    ``fields`` are config fields beside rank, alpha and targets; ``old`` is the config the directory had.
    """

    parts: tuple[Part, ...]
    origins: Mapping[str, Origin]
    fields: Mapping[str, object] = field(default_factory=dict)
    old: Mapping[str, object] = field(default_factory=dict)
    drops: tuple[Drop, ...] = ()
    notes: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    tool: str = ""


def plan(material: Material, base: BaseModel | None = None, method: str = "LORA") -> Plan:
    """The finished plan: names, config and what changes in it, refused where the config cannot say what the parts need."""
    parts = material.parts
    refusals = list(material.refusals)
    alpha = "lora_alpha" if method == "LORA" else "alpha"
    # A config of PEFT's beside another tool's tensors keeps what it says about base, task and training.
    kept = dict(material.old) if material.old.get("peft_type") == method else {}
    config: dict[str, object] = {"peft_type": method, "task_type": None, "base_model_name_or_path": None, "inference_mode": True, **kept}
    if parts:
        config |= _factors(parts, alpha)
        config["target_modules"] = _targets(parts, base, kept)
        if method == "LORA":
            config |= {k: v for k, v in _DEFAULTS.items() if k not in config}
            config |= {"use_rslora": False} if config.get("use_rslora") else {}
    elif not refusals:
        refusals.append(Refusal("there is no adapter tensor to convert"))
    config |= {k: v for k, v in material.fields.items() if v is not None or k not in config}
    refusals += _unfit(parts, base) + _misread(parts, config, alpha)
    steps = [
        TensorStep.of(
            f"{_PREFIX}{part.module}.{name}", piece.source, *piece.transforms, why=piece.why or f"PEFT's name for {material.tool}"
        )
        for part in parts
        for name, piece in part.tensors.items()
    ]
    return Plan(
        origins=material.origins,
        tensors=tuple(steps),
        config=config,
        config_steps=_changes(material.old, config, material.tool),
        drops=material.drops,
        notes=material.notes,
        refusals=tuple(refusals),
    )


_DEFAULTS: Mapping[str, object] = {"bias": "none", "fan_in_fan_out": False, "init_lora_weights": True, "modules_to_save": None}


def _targets(parts: Sequence[Part], base: BaseModel | None, kept: Mapping[str, object]) -> object:
    """What the config names already when that selects the parts and, as far as the base tells, nothing else; else their names."""
    wanted = {p.module for p in parts}
    if kept.get("target_modules"):
        config = AdapterConfig(Path(), dict(kept), "")
        others = base.paths - wanted if base is not None else frozenset()
        try:
            exact = all(decide(config, m).targeted for m in wanted) and not any(decide(config, m).targeted for m in others)
        except re.error:
            exact = False
        if exact:
            return kept["target_modules"]
    return targets(sorted(wanted), base)


def stated_alpha(checkpoint: Checkpoint, module: str, rank: int) -> float | None:
    """The alpha that PEFT's own config gives a module, when one lies beside tensors of PEFT's file name; None when it says nothing.

    No other tool writes these two names: whoever renamed the tensors left the config as it was.
    """
    config = checkpoint.config
    if config is None or config.peft_type != "LORA" or checkpoint.weights is None or checkpoint.weights.name not in weights.NAMES:
        return None
    ranks, alphas = config.pattern("rank_pattern"), config.pattern("alpha_pattern")
    try:
        stated = ranks.get(pattern_key(ranks, module) or "", config.get("r"))
        alpha = number(alphas.get(pattern_key(alphas, module) or "", config.get("lora_alpha")))
    except re.error:
        return None
    return alpha if stated == rank and not config.get("use_rslora") else None


def _factors(parts: Sequence[Part], alpha_field: str) -> dict[str, object]:
    """Rank and alpha of most modules, patterns for the others."""
    rank = Counter(p.rank for p in parts).most_common(1)[0][0]
    alpha = Counter(p.alpha for p in parts).most_common(1)[0][0]
    return {
        "r": rank,
        alpha_field: tidy(alpha),
        "rank_pattern": {p.module: p.rank for p in parts if p.rank != rank},
        "alpha_pattern": {p.module: tidy(p.alpha) for p in parts if p.alpha != alpha},
    }


def tidy(number: float) -> int | float:
    """An integral number as an int, as PEFT's configs have it."""
    return int(number) if float(number).is_integer() else number


def alpha_for(scale: float, rank: int) -> float | None:
    """The alpha for which PEFT's ``alpha / r`` is ``scale`` in single precision, None when there is none near."""
    alpha = scale * rank
    return alpha if _single(alpha / rank) == _single(scale) else None


def _single(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return float("inf")


def targets(modules: Sequence[str], base: BaseModel | None) -> list[str]:
    """Names for `target_modules` that select exactly ``modules``: last components where the base proves that they do."""
    wanted = set(modules)
    short = sorted({m.rpartition(".")[2] for m in modules})
    if base is not None and base.modules and len(modules) > _SHORT:
        selected = {m for m in base.paths if m.rpartition(".")[2] in short}
        if selected == wanted:
            return short
    return sorted(wanted)


def _unfit(parts: Iterable[Part], base: BaseModel | None) -> list[Refusal]:
    """Modules that the base does not have."""
    if base is None or not base.modules:
        return []
    strange = [p.module for p in parts if p.module not in base.modules]
    if not strange:
        return []
    return [Refusal(f"the base has no module {listed(strange)}", "the base model that the adapter was trained on")]


def _misread(parts: Iterable[Part], config: Mapping[str, object], alpha_field: str) -> list[Refusal]:
    """Modules for which PEFT would read another rank or alpha out of the patterns than meant: they are regular expressions."""
    ranks, alphas = (config.get(f"{kind}_pattern") or {} for kind in ("rank", "alpha"))
    if not isinstance(ranks, dict) or not isinstance(alphas, dict):
        return []
    if not ranks and not alphas and not any(f in config for f in ("r", alpha_field)):
        return []
    wrong = []
    for part in parts:
        rank = ranks.get(pattern_key(ranks, part.module) or "", config.get("r"))
        alpha = alphas.get(pattern_key(alphas, part.module) or "", config.get(alpha_field))
        if rank != part.rank or alpha != tidy(part.alpha):
            wrong.append(part.module)
    return [Refusal(f"the rank and alpha of {listed(wrong)} cannot be told apart by patterns")] if wrong else []


def _changes(old: Mapping[str, object], new: Mapping[str, object], tool: str) -> tuple[ConfigStep, ...]:
    gone = [ConfigStep(k, v, ABSENT, f"a field that goes with {tool}") for k, v in old.items() if k not in new]
    came = [ConfigStep(k, old.get(k, ABSENT), v, _reason(k, v)) for k, v in new.items() if old.get(k, ABSENT) != v]
    return (*gone, *came)


def _reason(name: str, value: object) -> str:
    return _REASONS.get(name, "what PEFT needs") if value else "PEFT's default"


_REASONS = {
    "r": "the tensors' rank",
    "lora_alpha": "so that alpha / r is the factor that the source applies",
    "alpha": "so that alpha / r is the factor that the source applies",
    "rank_pattern": "modules of another rank",
    "alpha_pattern": "modules with another factor",
    "target_modules": "the modules that have tensors",
    "use_dora": "there are magnitude vectors",
}


def origins(path: Path, tensors: Mapping[str, TensorInfo]) -> dict[str, Origin]:
    """Every tensor of one file by its name."""
    return {name: Origin(path, info) for name, info in tensors.items()}
