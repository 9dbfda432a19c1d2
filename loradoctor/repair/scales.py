"""The factor before each update: the same before and after, at the rank that the tensors have."""

from __future__ import annotations

import math

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.lora import scaling_of
from loradoctor.checkpoint.target_modules import pattern_key
from loradoctor.checkpoint.wording import counted, verb
from loradoctor.repair.pairs import both_halves
from loradoctor.repair.plan import Plan
from loradoctor.repair.proof import FAILED, NOT_RUN, PASSED, Proof
from loradoctor.repair.steps.names import lower_case

_EQUAL = 1e-12
"""rsLoRA's alpha times the root of two, over the root of twice the rank, is off by a last bit."""


def scaling(plan: Plan, read: Checkpoint, result: Checkpoint) -> Proof:
    """Whether every module is scaled as by the original config, with ranks read off the tensors on both sides.

    A config whose rank is not that of its tensors cannot be loaded, so it had no other scale.
    """
    if read.config is None or (read.foreign is not None and not lower_case(read)):
        return Proof("scaling", NOT_RUN, "the original has no PEFT config; the conversion says which factor its tool applies")
    told = [s for s in plan.config_steps if s.field == "lora_alpha" and "--lora-alpha" in s.why]
    if told:
        return Proof("scaling", NOT_RUN, "`lora_alpha` was given; the files cannot tell whether it is the training's")
    keys = {key.name: key for key in read.keys}
    steps = {step.target: step for step in plan.tensors}
    compared = 0
    for module, roles in result.by_module.items():
        pair = both_halves(roles)
        if pair is None or result.config is None or result.method.peft_type != "LORA":
            continue
        step = steps[pair[0].name]
        rank = result.tensors[pair[0].name].shape[0]
        old = keys.get(step.sources[0].name)
        before = _scale(read.config, old.module if old is not None else module, rank // len(step.sources))
        after = _scale(result.config, module, rank)
        if before is None or after is None or not math.isclose(before, after, rel_tol=_EQUAL):
            return Proof("scaling", FAILED, f"`{module}` was scaled by {before} and would be by {after}")
        compared += 1
    if not compared:
        return Proof("scaling", NOT_RUN, "the method has no pair of low-rank halves; see the bytes")
    return Proof(
        "scaling", PASSED, f"{counted(compared, 'module')} {verb(compared, 'is', 'are')} scaled as before, at the rank of the tensors"
    )


def _scale(config: AdapterConfig, module: str, rank: int) -> float | None:
    alphas = config.pattern("alpha_pattern")
    key = pattern_key(alphas, module)
    return scaling_of(config, rank, alphas[key] if key is not None else None)
