"""`r`, `rank_pattern` and the flags of LoRA's variants, read from the shapes and names of the tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.methods.lora import expected_rank, found_ranks, scaling_of, turned
from loradoctor.checkpoint.methods.lora import halves as pair_of
from loradoctor.repair.draft import Draft
from loradoctor.repair.plan import ABSENT

_FLAGS = (("use_dora", "lora_magnitude_vector", "DoRA's magnitudes"), ("lora_bias", "lora_B.bias", "biases of `lora_B`"))
"""Config flag, the role that only this variant has, and how to call it."""


def ranks(draft: Draft) -> None:
    """Set `r` and `rank_pattern` to the ranks that the tensors have."""
    config = draft.lora
    if config is None or config.get("target_parameters") or config.get("use_bdlora"):
        return
    found = _found(draft, config)
    if not found or all(_agrees(config, m, rank) for m, rank in found.items()):
        return
    if config.peft_type == "ADALORA":
        _adaptive(draft, found)
        return
    r, patterns = _settled(config, found)
    why = "the shapes of the tensors say so"
    draft.set("r", r, why)
    draft.set("rank_pattern", patterns, why)
    if config.alpha is not None and "lora_alpha" in config.raw:
        scale = scaling_of(AdapterConfig(config.path, draft.config, ""))
        draft.note(
            f"with `lora_alpha` {config.get('lora_alpha')} and `r` {r} the update is scaled by {scale:g}, as in a training with this `r`"
        )


def _found(draft: Draft, config: AdapterConfig) -> dict[str, int]:
    """Module → the rank both halves have; halves that disagree are a refusal."""
    checkpoint = draft.checkpoint
    found = {}
    for module, roles in checkpoint.by_module.items():
        pair = pair_of(roles)
        if pair is None or turned(config, module, roles, checkpoint.tensors):
            continue
        infos = [checkpoint.tensors[k.name] if k is not None else None for k in pair]
        if any(i is not None and 0 in i.shape for i in infos):
            return {}
        known = {rank for rank in found_ranks(*infos) if rank is not None}
        if len(known) != 1:
            draft.refuse(f"the halves of `{module}` have different ranks ({sorted(known)})", "the other half of one of them")
            return {}
        found[module] = known.pop()
    return found


def _agrees(config: AdapterConfig, module: str, rank: int) -> bool:
    expected = expected_rank(config, module)
    value = config.get("init_r" if config.peft_type == "ADALORA" else "r")
    usable = value is None or (isinstance(value, int) and not isinstance(value, bool))
    return usable and expected is not None and expected.value == rank and expected.source != "default"


def _adaptive(draft: Draft, found: Mapping[str, int]) -> None:
    values = set(found.values())
    if len(values) == 1 and not draft.config.get("rank_pattern"):
        draft.set("init_r", values.pop(), "the shapes of the tensors say so")
    else:
        draft.refuse(
            "`rank_pattern` does not fit the tensors of AdaLoRA", "the config that was saved with them: it says which ranks were pruned"
        )


def _settled(config: AdapterConfig, found: Mapping[str, int]) -> tuple[int, dict[str, Any]]:
    """The rank of most modules (the config's if any module has it), and patterns for the others."""
    tally = Counter(found.values())
    said = config.get("r")
    kept = isinstance(said, int) and not isinstance(said, bool) and said in tally
    r = int(said) if kept else tally.most_common(1)[0][0]
    old = {k: v for k, v in config.pattern("rank_pattern").items() if isinstance(v, int) and not isinstance(v, bool)}
    for patterns in (old, {**old, **_by_name(found, r)}, _by_name(found, r), {m: rank for m, rank in found.items() if rank != r}):
        trial = AdapterConfig(config.path, {**config.raw, "r": r, "rank_pattern": patterns}, "")
        if all(_agrees(trial, module, rank) for module, rank in found.items()):
            return r, dict(patterns)
    return r, {f"^{m}": rank for m, rank in found.items() if rank != r}


def _by_name(found: Mapping[str, int], r: int) -> dict[str, int]:
    """Patterns by last component where all modules of that name agree, by full path elsewhere; paths first, as the first match wins."""
    names: dict[str, set[int]] = {}
    for module, rank in found.items():
        names.setdefault(module.rpartition(".")[2], set()).add(rank)
    paths = {m: rank for m, rank in found.items() if len(names[m.rpartition(".")[2]]) > 1 and rank != r}
    short = {name: next(iter(values)) for name, values in names.items() if len(values) == 1 and values != {r}}
    return {**paths, **short}


def flags(draft: Draft) -> None:
    """Set `use_dora` and `lora_bias` where their tensors are; set `lora_alpha` when the user knows it."""
    checkpoint = draft.checkpoint
    if draft.wishes.alpha is not None and draft.lora is not None:
        alpha = draft.wishes.alpha
        draft.set("lora_alpha", int(alpha) if alpha == int(alpha) else alpha, "given with `--lora-alpha`")
    config = draft.lora
    if config is None or checkpoint.method.peft_type != "LORA":
        return
    for flag, role, title in _FLAGS:
        if any(role in roles for roles in checkpoint.by_module.values()) and not config.flag(flag):
            draft.set(flag, value=True, why=f"the file holds {title}, which PEFT drops without the flag")
    if config.get("lora_alpha", ABSENT) is ABSENT and draft.wishes.alpha is None:
        draft.note("`lora_alpha` is missing: PEFT takes 8, whatever it was in training; `--lora-alpha` sets it")
