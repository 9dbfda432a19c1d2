"""LD409."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Config, Peft
from loradoctor.lint.flow.values import NONE, Items, Known, Value
from loradoctor.lint.module import Arrival, Module, literal
from loradoctor.rule import rule

_BIASES = ("none", "all", "lora_only")
_STARTS = re.compile(r"(?i:gaussian|olora|mica)|loftq|eva|orthogonal|lora_ga|pissa.*|corda.*|")
"""Ways to begin that PEFT knows by name; the empty string counts as False."""


@rule("LD409", Severity.ERROR, "CF13", "CF15", "QT7")
def invalid_config_value(module: Module) -> Iterator[Finding]:
    """A LoRA configuration holds a value, or two that exclude each other, that PEFT refuses.

    Some are refused when the configuration is made, others when the model is wrapped, which is after it has been
    downloaded and loaded: a rank of zero, a dropout in percent, a truth value as `bias`, an unknown name of an initialisation,
    `layers_pattern` without `layers_to_transform`, LoftQ without its configuration, biases trained by two adapters of one model.

    ```python
    from peft import LoraConfig

    config = LoraConfig(r=8, lora_dropout=5, target_modules=["q_proj", "v_proj"])
    ```
    What to write instead:
    ```python
    from peft import LoraConfig

    config = LoraConfig(r=8, lora_dropout=0.05, target_modules=["q_proj", "v_proj"])
    ```
    """
    if module.is_test:
        return
    assigned = {store.name for store in module.stores}
    for site in module.calls("peft.LoraConfig"):
        for field, wrong, message, consequence in _CHECKS:
            if field in assigned or site.sometimes(wrong) is None:
                continue
            arg = site.argument(field)
            yield module.finding(arg.value if arg else site.node, message, help=consequence)
    for site in module.calls("add_adapter"):
        found = site.sometimes(_both_train_biases)
        if found is not None and "bias" not in assigned:
            first = found.facts(found.receiver, Peft)
            yield site.finding(
                "a second adapter trains biases in a model whose first adapter does already",
                related=module.related(first.made if first else None, "the first adapter"),
                help='the biases belong to the base and there is one of each: the call raises; set `bias="none"`',
            )


def _given(value: Value | None) -> bool:
    """Whether something is certainly passed that counts as true."""
    return (isinstance(value, Known) and bool(value.value)) or (isinstance(value, Items) and bool(value.items))


def _absent(value: Value | None) -> bool:
    return value is None or value == NONE


def _number(arrival: Arrival, name: str) -> float | None:
    value = literal(arrival.arg(name))
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _no_rank(arrival: Arrival) -> bool:
    rank = _number(arrival, "r")
    return rank is not None and rank <= 0 and _absent(arrival.arg("rank_pattern"))


def _percent(arrival: Arrival) -> bool:
    dropout = _number(arrival, "lora_dropout")
    return dropout is not None and dropout > 1


def _bias(arrival: Arrival) -> bool:
    value = arrival.arg("bias")
    return isinstance(value, Known) and value.value not in _BIASES


def _layers_of_an_expression(arrival: Arrival) -> bool:
    layers = arrival.arg("layers_to_transform")
    chosen = isinstance(layers, Items) or (isinstance(layers, Known) and layers != NONE)
    return chosen and isinstance(literal(arrival.arg("target_modules")), str)


def _pattern_alone(arrival: Arrival) -> bool:
    silent = arrival.module.before("peft", "0.14")  # where the pattern had no effect
    return not silent and _given(arrival.arg("layers_pattern")) and _absent(arrival.arg("layers_to_transform"))


def _loftq_alone(arrival: Arrival) -> bool:
    return literal(arrival.arg("init_lora_weights")) == "loftq" and _absent(arrival.arg("loftq_config"))


def _unknown_start(arrival: Arrival) -> bool:
    start = literal(arrival.arg("init_lora_weights"))
    return isinstance(start, str) and _STARTS.fullmatch(start) is None


def _dora_with_bias(arrival: Arrival) -> bool:
    return literal(arrival.arg("use_dora")) is True and literal(arrival.arg("lora_bias")) is True


_AT_WRAP = "PEFT raises when the model is wrapped; "
_CHECKS: tuple[tuple[str, Callable[[Arrival], bool], str, str], ...] = (
    ("r", _no_rank, "the rank is not positive", _AT_WRAP + "`r` is the number of columns of the adapter, at least 1"),
    ("lora_dropout", _percent, "`lora_dropout` is above 1", _AT_WRAP + "it is a probability: write `0.05` for five percent"),
    ("bias", _bias, "`bias` is none of the values PEFT knows", _AT_WRAP + 'write `"none"`, `"all"` or `"lora_only"`'),
    (
        "layers_to_transform",
        _layers_of_an_expression,
        "`layers_to_transform` is given with a string of `target_modules`",
        "the configuration raises; pass a list of names, or say the layers in the expression",
    ),
    (
        "layers_pattern",
        _pattern_alone,
        "`layers_pattern` is given without `layers_to_transform`",
        "the configuration raises; name the layers, or leave the pattern out",
    ),
    (
        "init_lora_weights",
        _loftq_alone,
        '`init_lora_weights="loftq"` is given without `loftq_config`',
        "the configuration raises; pass `loftq_config=LoftQConfig(loftq_bits=4)`",
    ),
    (
        "init_lora_weights",
        _unknown_start,
        "`init_lora_weights` names no way to begin that PEFT knows",
        _AT_WRAP + 'write True, or one of `"gaussian"`, `"pissa"`, `"olora"`, `"eva"`, `"corda"`, `"orthogonal"`',
    ),
    ("use_dora", _dora_with_bias, "`use_dora` is given with `lora_bias`", "the configuration raises; DoRA has no such bias"),
)
"""The field the finding stands at, what is wrong, and how to say so."""


def _both_train_biases(arrival: Arrival) -> bool:
    wrapper = arrival.facts(arrival.receiver, Peft)
    first = arrival.facts(wrapper.config, Config) if wrapper and not wrapper.gutted else None
    second = arrival.facts(arrival.arg("peft_config"), Config)
    return all(c is not None and literal(c.get("bias")) in ("all", "lora_only") for c in (first, second))
