"""LD522: a config value that PEFT rejects or cannot use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

from loradoctor.checkpoint import expression
from loradoctor.checkpoint.adapter_config import AdapterConfig, number
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods import UNKNOWN
from loradoctor.checkpoint.methods.constraints import broken
from loradoctor.checkpoint.methods.fields import fields
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
    judges: list[Callable[[AdapterConfig], Iterator[Problem]]] = [
        _task,
        partial(_patterns, longest=max(checkpoint.by_module, key=len, default="")),
    ]
    if checkpoint.method.low_rank:
        judges += [_rank, _alpha, _choices, _contradictions, _former]
    if checkpoint.method is not UNKNOWN and checkpoint.tensor_method is checkpoint.method:
        judges += [_constraints, _kinds]
    told: set[str] = set()
    for judge in judges:
        for key, what, consequence in judge(config):
            if judge is _kinds and key in told:
                continue  # what is wrong with it has been said more closely
            told.add(key)
            yield checkpoint.finding(what, key, of="config", help=consequence, data={"cause": "invalid-value", "field": key})
    if config.peft_type == "ADALORA" and config.get("total_step", 1) is None:
        yield checkpoint.finding(
            "`total_step` is null, as PEFT before 0.15 allowed it",
            "total_step",
            of="config",
            severity=Severity.INFO,
            help="later releases stop with a ValueError when they read the config: write any number above 0, it only matters in training",
            data={"cause": "refused-since", "field": "total_step"},
        )


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


def _constraints(config: AdapterConfig) -> Iterator[Problem]:
    """What PEFT checks itself, see `methods/constraints.py`."""
    own = {"r", "task_type"} if config.peft_type in ("LORA", "ADALORA") else {"task_type"} if config.task_type is not None else set()
    for key, what in broken(config.peft_type or "", config):
        if key not in own or (key == "task_type" and config.task_type in TASK_TYPES):
            yield key, what, "PEFT stops with an error when it reads the config: set it as it was in training"


def _kinds(config: AdapterConfig) -> Iterator[Problem]:
    """Values of a kind that PEFT does not expect: it does not look, and the text "false" counts as true."""
    for key, field in fields(config.peft_type or "").items():
        value = config.get(key)
        if value is None or field.takes(value):
            # Null stands for "not set" in many old configs and does no harm where it does not belong; sizes have their own check.
            # PEFT enforces few of the names it declares, and those are constraints; of the others only the case may be wrong.
            near = next((c for c in field.choices if isinstance(value, str) and c != value and c.lower() == value.lower()), None)
            if near is not None and value not in field.choices and key not in ("init_lora_weights", "bias"):
                yield key, f"`{key}` is `{value}`; PEFT knows `{near}`", "PEFT stops, or takes it for something else: write it as PEFT does"
            continue
        if isinstance(value, (int, float)) and not isinstance(value, bool) and "bool" in field.kinds:
            continue  # 0 and 1 are what they say
        yield (
            key,
            f"`{key}` is {_kind(value)}, where PEFT expects {_expected(field.kinds)}",
            "PEFT stops with a TypeError, or takes any text for true and every letter for a name: write it as PEFT does",
        )


_WORDS = {"int": "a number", "float": "a number", "bool": "true or false", "str": "a string", "list": "a list", "dict": "an object"}


def _kind(value: object) -> str:
    return {bool: "true or false", str: "a string", list: "a list", dict: "an object"}.get(type(value), "a number")


def _expected(kinds: tuple[str, ...]) -> str:
    return " or ".join(dict.fromkeys(_WORDS.get(k, k) for k in kinds if k != "null"))


def _former(config: AdapterConfig) -> Iterator[Problem]:
    """PEFT before 0.3 trained parts of a fused projection with `enable_lora`, in a layout that nothing reads any more."""
    enabled = config.get("enable_lora")
    if isinstance(enabled, list) and any(enabled) and not all(enabled):
        yield (
            "enable_lora",
            f"`enable_lora` is {enabled}: the adapter acts on parts of a fused projection, which PEFT since 0.3 cannot",
            "the tensors do not fit and PEFT stops with a size mismatch: load it with PEFT 0.2, or give it a LoRA per part",
        )


def _contradictions(config: AdapterConfig) -> Iterator[Problem]:
    for name in ("rank_pattern", "alpha_pattern"):
        value = config.get(name)
        if value is not None and not isinstance(value, dict):
            yield name, f"`{name}` is a {type(value).__name__}, not an object", "PEFT cannot use it"


def _patterns(config: AdapterConfig, longest: str) -> Iterator[Problem]:
    """Everything that PEFT compiles as a regular expression and matches against every module, the one called ``longest`` too."""
    written = [(key, f"`{key}`", value) for key in ("target_modules", "exclude_modules") if isinstance(value := config.get(key), str)]
    for key in ("rank_pattern", "alpha_pattern") if config.peft_type != "ADALORA" else ():
        written += [(key, f"the key `{pattern}` of `{key}`", pattern) for pattern in config.pattern(key)]
    for key, what, pattern in written:
        try:
            expression.fullmatch(pattern, longest)
        except expression.TooSlowError:
            message = f"{what} is a regular expression that does not come to an end on `{longest}`"
            yield key, message, "PEFT matches it against every module and hangs: repeat nothing inside of what is repeated"
        except re.error as error:
            yield key, f"{what} is not a regular expression: {error}", "PEFT stops with `re.error`"
