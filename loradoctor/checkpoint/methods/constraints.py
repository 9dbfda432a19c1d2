"""Values and combinations of config fields that PEFT refuses, method by method.

From the `__post_init__` of peft/tuners/*/config.py, and the `update_layer` and `__init__` of the layers. Every constraint carries the
smallest example that breaks it; a test hands each to the installed PEFT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from loradoctor.checkpoint.adapter_config import AdapterConfig, number


@dataclass(frozen=True, slots=True)
class Constraint:
    """``broken`` judges a config; ``what`` says it in words, ``{}`` standing for the value of ``field``."""

    methods: tuple[str, ...]
    field: str
    broken: Callable[[AdapterConfig], bool]
    what: str
    example: Mapping[str, Any]


def natural(field: str, methods: str, *, null: bool = False) -> Constraint:
    """A size: a whole number above 0, or null where the method takes that for "none"."""

    def broken(config: AdapterConfig) -> bool:
        value = config.get(field, 1)
        if value is None:
            return not null
        return not isinstance(value, int) or isinstance(value, bool) or value <= 0

    return Constraint(tuple(methods.split()), field, broken, f"`{field}` is {{}}, not a whole number above 0", {field: 0})


def within(field: str, methods: str, low: float, high: float, *, open_end: bool = False) -> Constraint:
    """A number from ``low`` to ``high``, ``high`` itself excluded with ``open_end``."""

    def broken(config: AdapterConfig) -> bool:
        value = number(config.get(field, low))
        return value is not None and not (low <= value < high if open_end else low <= value <= high)

    what = f"`{field}` is {{}}, which is not {'at least' if high > 1e6 else 'from'} {low:g}"
    tail = "" if high > 1e6 else f" to {high:g}" + (" (excluded)" if open_end else "")
    return Constraint(tuple(methods.split()), field, broken, what + tail, {field: low - 1})


def one_of(field: str, methods: str, *values: str) -> Constraint:
    """One of these names."""

    def broken(config: AdapterConfig) -> bool:
        return config.get(field, values[0]) not in values

    return Constraint(tuple(methods.split()), field, broken, f"`{field}` is {{}}; PEFT knows {', '.join(values)}", {field: "other"})


def _value(config: AdapterConfig, field: str, default: float) -> float:
    found = number(config.get(field, default))
    return default if found is None else found


def _length(config: AdapterConfig, field: str) -> int | None:
    value = config.get(field)
    return len(value) if isinstance(value, list) else None


def _lengths_differ(config: AdapterConfig) -> bool:
    found = {n for f in ("cpt_token_ids", "cpt_mask", "cpt_tokens_type_mask") if (n := _length(config, f)) is not None}
    return len(found) > 1


def _feedforward_elsewhere(config: AdapterConfig) -> bool:
    inner, outer = config.get("feedforward_modules"), config.get("target_modules")
    return isinstance(inner, list) and isinstance(outer, list) and not {str(n) for n in inner} <= {str(n) for n in outer}


def _both_or_neither(one: str, default_one: int, other: str, default_other: int) -> Callable[[AdapterConfig], bool]:
    return lambda config: (_value(config, one, default_one) != 0) == (_value(config, other, default_other) != 0)


def _with_parameters(field: str, value: object) -> Constraint:
    def broken(config: AdapterConfig) -> bool:
        # A linear layer that is adapted too makes PEFT correct `fan_in_fan_out` before it comes to the parameters.
        corrected = field == "fan_in_fan_out" and bool(config.get("target_modules"))
        return bool(config.get("target_parameters")) and bool(config.get(field)) and not corrected

    example = {"target_parameters": ["weight"], "target_modules": [], field: value}
    return Constraint(("LORA",), field, broken, f"`{field}` does not go together with `target_parameters`", example)


_PATTERN_ALONE = "ADALORA BOFT DEFT DELORA FOURIERFT FROD HRA LILY LOHA LOKR LORA OFT PEANUT PSOFT PVERA SHADOW TINYLORA VBLORA VERA WAVEFT"
_NO_LAYERS_WITH_PATTERN = "ADALORA C3A DEFT DELORA FOURIERFT HIRA HRA LORA MISS PSOFT SHADOW UNILORA WAVEFT"
_NO_PATTERN_WITH_PATTERN = "C3A DEFT FOURIERFT HIRA HRA LORA MISS PSOFT SHADOW UNILORA WAVEFT"
_RANKED = "LOHA LOKR HIRA VERA PVERA RANDLORA TINYLORA UNILORA VBLORA GRALORA HRA MISS DEFT DELORA POLY LILY PEANUT PSOFT SHIRA"


def _of_layers() -> Iterator[Constraint]:
    pattern = {"target_modules": ".*up"}
    for field, methods, value in (
        ("layers_to_transform", _NO_LAYERS_WITH_PATTERN, [0]),
        ("layers_pattern", _NO_PATTERN_WITH_PATTERN, "layers"),
    ):
        yield Constraint(
            tuple(methods.split()),
            field,
            lambda config, field=field: isinstance(config.get("target_modules"), str) and config.get(field) is not None,  # type: ignore[misc]
            f"`{field}` is set although `target_modules` is a pattern",
            {**pattern, field: value},
        )
    yield Constraint(
        tuple(_PATTERN_ALONE.split()),
        "layers_pattern",
        lambda config: bool(config.get("layers_pattern")) and config.get("layers_to_transform") is None,
        "`layers_pattern` is set without `layers_to_transform`",
        {"layers_pattern": "layers"},
    )


CONSTRAINTS: tuple[Constraint, ...] = (
    natural("r", _RANKED),
    natural("r", "SUPERTUNING", null=True),
    natural("n_frequency", "FOURIERFT WAVEFT"),
    natural("block_size", "C3A"),
    natural("gralora_k", "GRALORA"),
    natural("topk", "VBLORA"),
    natural("u", "TINYLORA"),
    natural("theta_d_length", "UNILORA"),
    natural("stride_A", "LILY"),
    # Null, which PEFT before 0.15 wrote, is told apart: `invalid-config-field` says since when it is refused.
    natural("total_step", "ADALORA", null=True),
    within("num_B", "LILY", 2, 1e9),
    within("depth", "PEANUT", 0, 1e9),
    within("hybrid_r", "GRALORA", 0, 1e9),
    within("orth_reg_weight", "ADALORA", 0, 1e9),
    within("num_frozen_tokens", "CARTRIDGE", 0, 1e9),
    within("sparse_rate", "FROD", 0, 1),
    within("weight_tying", "TINYLORA", 0, 1),
    within("unilora_dropout", "UNILORA", 0, 1),
    within("sparsity", "SUPERTUNING", 0, 1, open_end=True),
    within("lora_dropout", "SUPERTUNING", 0, 1, open_end=True),
    one_of("decomposition_method", "DEFT", "relu", "qr"),
    one_of("config_A_B", "GLORA", "lora", "vector", "constant", "none"),
    one_of("config_C", "GLORA", "lora", "vector", "none"),
    one_of("config_D_E", "GLORA", "constant", "vector", "none"),
    one_of("ab_svd_init", "PSOFT", "psoft_init", "pissa_init"),
    one_of("psoft_svd", "PSOFT", "full", "lowrank"),
    one_of("variant", "ROAD", "road_1", "road_2", "road_4"),
    one_of("bias", "UNILORA", "none", "all", "unilora_only"),
    Constraint(
        ("GRALORA",),
        "r",
        lambda c: _value(c, "gralora_k", 2) > 0 and _value(c, "r", 32) % _value(c, "gralora_k", 2) != 0,
        "`r` is {}, which `gralora_k` does not divide",
        {"r": 5, "gralora_k": 2},
    ),
    Constraint(
        ("ROAD",),
        "group_size",
        lambda c: _value(c, "group_size", 64) <= 0 or _value(c, "group_size", 64) % 2 != 0,
        "`group_size` is {}, not an even number above 0",
        {"group_size": 3},
    ),
    Constraint(
        ("OFT",),
        "oft_block_size",
        _both_or_neither("r", 0, "oft_block_size", 32),
        "one of `r` and `oft_block_size` ({}, 32 when missing) has to be 0, and only one",
        {"r": 4, "oft_block_size": 4},
    ),
    Constraint(
        ("BOFT",),
        "boft_block_size",
        _both_or_neither("boft_block_size", 4, "boft_block_num", 0),
        "one of `boft_block_size` ({}, 4 when missing) and `boft_block_num` has to be 0, and only one",
        {"boft_block_size": 4, "boft_block_num": 3},
    ),
    Constraint(("ADALORA",), "use_dora", lambda c: c.flag("use_dora"), "AdaLoRA cannot be combined with DoRA", {"use_dora": True}),
    Constraint(
        ("ADALORA",),
        "total_step",
        lambda c: number(c.get("total_step")) is not None and _value(c, "tinit", 0) >= _value(c, "total_step", 0) - _value(c, "tfinal", 0),
        "`total_step` {} leaves no step between `tinit` and `tfinal`",
        {"total_step": 10, "tinit": 8, "tfinal": 5},
    ),
    Constraint(
        ("CARTRIDGE",),
        "num_frozen_tokens",
        lambda c: number(c.get("num_virtual_tokens")) is not None and _value(c, "num_frozen_tokens", 1) > _value(c, "num_virtual_tokens", 0),
        "`num_frozen_tokens` is {}, more than `num_virtual_tokens`",
        {"num_frozen_tokens": 9, "num_virtual_tokens": 3},
    ),
    Constraint(
        ("CPT",), "task_type", lambda c: c.task_type != "CAUSAL_LM", "`task_type` is {}; CPT is for CAUSAL_LM only", {"task_type": "SEQ_CLS"}
    ),
    Constraint(
        ("CPT",),
        "cpt_mask",
        _lengths_differ,
        "`cpt_token_ids`, `cpt_mask` and `cpt_tokens_type_mask` differ in length",
        {"cpt_token_ids": [1, 2], "cpt_mask": [1], "task_type": "CAUSAL_LM"},
    ),
    Constraint(
        ("IA3",),
        "feedforward_modules",
        _feedforward_elsewhere,
        "`feedforward_modules` names {}, which are not all in `target_modules`",
        {"target_modules": ["up"], "feedforward_modules": ["down"]},
    ),
    Constraint(
        ("SUPERTUNING",),
        "lora_alpha",
        lambda c: c.get("r") is None and c.get("lora_alpha") is not None,
        "`lora_alpha` is set without `r`",
        {"lora_alpha": 4.0},
    ),
    Constraint(
        ("ADAMSS",),
        "init_weights",
        lambda c: c.get("init_weights", "orthogonal") not in ("orthogonal", None, False),
        "`init_weights` is {}; PEFT knows orthogonal and null",
        {"init_weights": "other"},
    ),
    Constraint(
        ("UNILORA",),
        "init_theta_d_bound",
        lambda c: _value(c, "init_theta_d_bound", 0.02) <= 0,
        "`init_theta_d_bound` is {}, not above 0",
        {"init_theta_d_bound": 0.0},
    ),
    Constraint(
        ("PSOFT",),
        "cayley_neumann_eps",
        lambda c: c.flag("use_cayley_neumann") and not 0 < _value(c, "cayley_neumann_eps", 0.5) < 1,
        "`cayley_neumann_eps` is {}, not between 0 and 1",
        {"cayley_neumann_eps": 1.5, "use_cayley_neumann": True},
    ),
    Constraint(
        ("PSOFT",),
        "num_cayley_neumann_terms",
        lambda c: c.flag("use_cayley_neumann") and _value(c, "num_cayley_neumann_terms", 5) <= 0,
        "`num_cayley_neumann_terms` is {}, not above 0",
        {"num_cayley_neumann_terms": 0, "use_cayley_neumann": True},
    ),
    Constraint(
        ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING"),
        "tokenizer_kwargs",
        lambda c: c.flag("tokenizer_kwargs") and c.get("prompt_tuning_init") != "TEXT",
        "`tokenizer_kwargs` is set although `prompt_tuning_init` is not TEXT",
        {"tokenizer_kwargs": {"a": 1}, "num_virtual_tokens": 3},
    ),
    *(
        Constraint(
            ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING"),
            field,
            lambda c, field=field: c.get("prompt_tuning_init") == "TEXT" and not c.get(field),  # type: ignore[misc]
            f"`prompt_tuning_init` is TEXT, but `{field}` is {{}}",
            {"prompt_tuning_init": "TEXT", "num_virtual_tokens": 3, other: "x"},
        )
        for field, other in (("tokenizer_name_or_path", "prompt_tuning_init_text"), ("prompt_tuning_init_text", "tokenizer_name_or_path"))
    ),
    Constraint(
        ("LORA",),
        "target_parameters",
        lambda c: isinstance(c.get("target_parameters"), str),
        "`target_parameters` is a string, not a list",
        {"target_parameters": "weight"},
    ),
    Constraint(
        ("LORA",),
        "use_dora",
        lambda c: c.flag("use_dora") and c.flag("megatron_config"),
        "`use_dora` and `megatron_config` exclude each other",
        {"use_dora": True, "megatron_config": {"a": 1}},
    ),
    Constraint(
        ("LORA",),
        "lora_bias",
        lambda c: c.flag("lora_bias") and c.flag("use_dora"),
        "`lora_bias` and `use_dora` exclude each other",
        {"lora_bias": True, "use_dora": True},
    ),
    Constraint(
        ("LORA",),
        "lora_bias",
        lambda c: c.flag("lora_bias") and c.get("init_lora_weights", True) not in (True, False),
        "`lora_bias` needs `init_lora_weights` to be true or false",
        {"lora_bias": True, "init_lora_weights": "gaussian"},
    ),
    *(
        _with_parameters(field, value)
        for field, value in (("lora_dropout", 0.5), ("fan_in_fan_out", True), ("lora_bias", True), ("use_dora", True))
    ),
    *_of_layers(),
)  # fmt: skip
"""In the order in which they are reported; one field is told once."""


def broken(peft_type: str, config: AdapterConfig) -> Iterator[tuple[str, str]]:
    """Field and what is wrong with it, for every constraint of the method that the config breaks."""
    told: set[str] = set()
    for constraint in CONSTRAINTS:
        if peft_type in constraint.methods and constraint.field not in told and constraint.broken(config):
            told.add(constraint.field)
            yield constraint.field, constraint.what.replace("{}", _shown(config.get(constraint.field)))


def _shown(value: object) -> str:
    return "null" if value is None else f"`{value}`"
