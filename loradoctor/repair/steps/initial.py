"""PiSSA, OLoRA and their kind → plain LoRA, with the adapter as it was before training at hand.

As `subtract_mutated_init` of peft/tuners/lora/model.py: the base lost B0·A0 when training began, so the update of the original
base is s·(B·A - B0·A0) = s·[B | -B0]·[A ; A0], a LoRA of twice the rank and the same scale.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from loradoctor.checkpoint.checkpoint import Checkpoint, read
from loradoctor.checkpoint.key import Key
from loradoctor.checkpoint.methods.lora import expected_rank, scaling_of
from loradoctor.checkpoint.target_modules import pattern_key
from loradoctor.repair.draft import Draft
from loradoctor.repair.pairs import both_halves
from loradoctor.repair.plan import NEGATE, Origin, Source, TensorStep

_CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga")
_NEEDS_DATA = ("corda",)
_CONFIGS = ("corda_config", "lora_ga_config")


def initial_adapter(draft: Draft) -> None:
    """Subtract the initial adapter when it is given; say what it would be good for when it is not."""
    config = draft.lora
    if config is None or config.peft_type != "LORA":
        return
    init = config.get("init_lora_weights")
    changes = isinstance(init, str) and init.lower().startswith(_CHANGES_BASE)
    if draft.wishes.initial is None:
        if changes and str(init).lower().startswith(_NEEDS_DATA):
            draft.refuse(f"PEFT cannot load an adapter with `init_lora_weights` {init!r}", "the initial adapter (`--initial-adapter`)")
        elif changes:
            draft.note(
                f"`init_lora_weights` is {init!r}: PEFT changes the base on load, other loaders do not; "
                "with `--initial-adapter` it becomes a plain LoRA"
            )
        return
    before = read(draft.wishes.initial, Path(draft.wishes.initial))
    reason = _unfit(draft.checkpoint, before)
    if reason or before.weights is None:
        draft.refuse(f"`{draft.wishes.initial}` cannot be subtracted: {reason}", "the adapter saved right after `get_peft_model`")
        return
    if not changes:
        draft.note(f"`init_lora_weights` is {init!r}, which changes no base; the initial adapter was subtracted because it was given")
    _subtract(draft, before)


def _unfit(now: Checkpoint, before: Checkpoint) -> str:
    """Why the two are not one adapter before and after training; empty when they are."""
    if before.comparable is None or before.comparable.peft_type != "LORA" or before.weights is None:
        return "it is no LoRA adapter that could be read"
    if before.comparable.flag("use_dora") or now.comparable is None or now.comparable.flag("use_dora"):
        return "the magnitudes of DoRA belong to the changed base"
    if set(_pairs(now)) != set(_pairs(before)):
        return "it adapts other modules"
    for module, pair in _pairs(now).items():
        old = _pairs(before)[module]
        for key, former in zip(pair, old, strict=True):
            one, other = now.tensors[key.name], before.tensors[former.name]
            if (one.shape, one.dtype) != (other.shape, other.dtype):
                return f"`{former.name}` is {other.dtype} {list(other.shape)}, not {one.dtype} {list(one.shape)}"
        if _scale(now, module) is None or _scale(now, module) != _scale(before, module):
            return f"`{module}` is scaled by {_scale(before, module)} there and by {_scale(now, module)} here"
    return ""


def _pairs(checkpoint: Checkpoint) -> dict[str, tuple[Key, Key]]:
    return {module: pair for module, roles in checkpoint.by_module.items() if (pair := both_halves(roles)) is not None}


def _scale(checkpoint: Checkpoint, module: str) -> float | None:
    config = checkpoint.config
    rank = expected_rank(config, module) if config is not None else None
    if config is None or rank is None:
        return None
    alphas = config.pattern("alpha_pattern")
    key = pattern_key(alphas, module)
    return scaling_of(config, rank.value, alphas[key] if key is not None else None)


def _subtract(draft: Draft, before: Checkpoint) -> None:
    assert before.weights is not None  # noqa: S101 -- checked by the caller
    path = before.weights
    origins = {f"initial adapter: {name}": Origin(path, info) for name, info in before.tensors.items()}
    draft.start = replace(draft.start, origins={**draft.start.origins, **origins})
    old = _pairs(before)
    for module, pair in _pairs(draft.checkpoint).items():
        for axis, (key, former) in enumerate(zip(pair, old[module], strict=True)):
            step = draft.steps[key.name]
            if len(step.sources) != 1:
                draft.refuse(f"`{key.name}` is joined from several tensors already", "the adapter as PEFT saved it")
                return
            own = Source(step.sources[0].name, (*step.sources[0].transforms, *step.transforms))
            other = Source(f"initial adapter: {former.name}", (NEGATE,) if axis else ())
            joined = TensorStep(key.name, (own, other), axis=axis, why=step.why)
            draft.replace_step(joined, "joined with the initial adapter's: s(BA - B0A0), twice the rank")
    _double(draft)


def _double(draft: Draft) -> None:
    why = "twice the rank at the same scale"
    config = draft.checkpoint.config
    if config is None:
        return
    factor = math.sqrt(2) if config.flag("use_rslora") else 2
    alpha = config.get("lora_alpha", 8)
    draft.set("r", config.r * 2, why)
    draft.set("lora_alpha", alpha * factor, why)
    if ranks := config.pattern("rank_pattern"):
        draft.set("rank_pattern", {k: v * 2 for k, v in ranks.items()}, why)
    if alphas := config.pattern("alpha_pattern"):
        draft.set("alpha_pattern", {k: v * factor for k, v in alphas.items()}, why)
    draft.set("init_lora_weights", value=True, why="a plain LoRA leaves the base alone")
    for name in _CONFIGS:
        if draft.config.get(name) is not None:
            draft.set(name, None, "it belongs to the initialisation that is gone")
