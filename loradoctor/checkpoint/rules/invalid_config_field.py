"""LD522: a config value that PEFT rejects or cannot use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from loradoctor.checkpoint.adapter_config import AdapterConfig, number
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

TASK_TYPES = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
BIASES = ("none", "all", "lora_only")
INITS = re.compile(r"(?i:gaussian|olora|mica)|pissa(_niter_\d+)?|corda\w*|eva|loftq|orthogonal|lora_ga|")
"""Spellings that `update_layer` and `reset_lora_parameters` accept (peft/tuners/lora/layer.py)."""

Problem = tuple[str, str, str]
"""Config key, what is wrong with it, what follows."""


@rule("LD522", Severity.ERROR, "C2", "C11")
def invalid_config_field(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A value in `adapter_config.json` is one that PEFT rejects.

    A rank of 0, a rank as text, a null `lora_alpha`, a task type that does not exist, a pattern that is no regular expression:
    PEFT stops with an error that rarely names the key. Hand-written and converted configs have them.

    Correct the value; the tensors tell the rank, the training script the rest.
    """
    config = checkpoint.config
    if config is None:
        return
    judges: list[Callable[[AdapterConfig], Iterator[Problem]]] = [_task, _patterns]
    if checkpoint.method.low_rank:
        judges += [_rank, _alpha, _choices, _contradictions]
    for judge in judges:
        for key, what, consequence in judge(config):
            yield checkpoint.finding(what, key, of="config", help=consequence, data={"cause": "invalid-value", "field": key})


def _task(config: AdapterConfig) -> Iterator[Problem]:
    value = config.get("task_type")
    if value is not None and value not in TASK_TYPES and config.peft_type is not None:
        known = next((t for t in TASK_TYPES if t == str(value).upper()), None)
        yield (
            "task_type",
            f"`{value}` is not a task type" + (f"; `{known}` is" if known else ""),
            "PEFT stops with `ValueError: Invalid task type`",
        )


def _rank(config: AdapterConfig) -> Iterator[Problem]:
    value = config.get("r", 8)
    if not isinstance(value, int) or isinstance(value, bool):
        yield (
            "r",
            f"the rank is `{value}`, not a whole number",
            "PEFT stops with a TypeError: the number of rows of `lora_A` is the rank",
        )
    elif value <= 0 and config.peft_type != "ADALORA":
        yield "r", f"the rank is {value}", "PEFT stops with `ValueError`: the number of rows of `lora_A` is the rank"


def _alpha(config: AdapterConfig) -> Iterator[Problem]:
    value = config.get("lora_alpha", 8)
    if number(value) is None:
        yield "lora_alpha", f"`lora_alpha` is `{value}`, not a number", "PEFT stops with a TypeError when it computes the scaling"
    elif value == 0:
        yield "lora_alpha", "`lora_alpha` is 0", "the update is multiplied by 0: the model answers like its base"


def _choices(config: AdapterConfig) -> Iterator[Problem]:
    bias = config.get("bias", "none")
    if bias not in BIASES:
        yield "bias", f"`bias` is `{bias}`; PEFT knows {', '.join(BIASES)}", "PEFT stops with `NotImplementedError`"
    init = config.get("init_lora_weights", True)
    if config.peft_type == "LORA" and isinstance(init, str) and not INITS.fullmatch(init):
        yield (
            "init_lora_weights",
            f"`init_lora_weights` is `{init}`, which PEFT does not know",
            "PEFT stops with `ValueError: Unknown initialization`",
        )
    for key in ("target_modules", "exclude_modules"):
        value = config.get(key)
        if value is not None and not isinstance(value, (str, list)):
            yield key, f"`{key}` is a {type(value).__name__}, not a list or a pattern", "PEFT cannot match any module"


def _contradictions(config: AdapterConfig) -> Iterator[Problem]:
    is_pattern = isinstance(config.get("target_modules"), str)
    for key in ("layers_to_transform", "layers_pattern"):
        if is_pattern and config.get(key) is not None:
            yield (
                key,
                f"`{key}` is set although `target_modules` is a pattern",
                "PEFT stops with `ValueError`: put the layers into the pattern",
            )
    if config.get("layers_pattern") and config.get("layers_to_transform") is None:
        yield "layers_pattern", "`layers_pattern` is set without `layers_to_transform`", "PEFT stops with `ValueError`"
    if config.flag("lora_bias") and config.flag("use_dora"):
        yield "lora_bias", "`lora_bias` and `use_dora` exclude each other", "PEFT stops with `ValueError`"
    for name in ("rank_pattern", "alpha_pattern"):
        value = config.get(name)
        if value is not None and not isinstance(value, dict):
            yield name, f"`{name}` is a {type(value).__name__}, not an object", "PEFT cannot use it"


def _patterns(config: AdapterConfig) -> Iterator[Problem]:
    """Everything that PEFT compiles as a regular expression."""
    for key in ("target_modules", "exclude_modules"):
        value = config.get(key)
        if isinstance(value, str) and (reason := _broken(value)):
            yield key, f"`{key}` is not a regular expression: {reason}", "PEFT stops with `re.error`"
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in config.pattern(key):
            if config.peft_type != "ADALORA" and (reason := _broken(pattern)):
                yield (
                    key,
                    f"`{key}` has the key `{pattern}`, which is not a regular expression: {reason}",
                    "PEFT stops with `re.error`",
                )


def _broken(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return str(error)
    return ""
