"""Our matcher against PEFT's own, on generated module names and configs."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.target_modules import decide, pattern_key

utils = pytest.importorskip("peft.tuners.tuners_utils")
other = pytest.importorskip("peft.utils.other")

WORDS = ["q_proj", "proj", "v_proj", "self_attn", "layers", "h", "model", "experts", "lm_head", "head", "0", "1", "12", "w1", "a", "b"]
component = st.sampled_from(WORDS)
module = st.lists(component, min_size=1, max_size=6).map(".".join)
tail = st.lists(component, min_size=1, max_size=3).map(".".join)
pattern = st.one_of(
    st.sampled_from([r".*q_proj", r"q_proj", r".*\.(q|v)_proj", r"model\..*proj", r".*", r".*layers\.[01]\..*", r"(?!.*1).*proj", ""]),
    module.map(re.escape),
)
names = st.lists(tail, min_size=0, max_size=4)
layers = st.one_of(st.none(), st.integers(0, 12), st.lists(st.sampled_from([0, 1, 2, 12]), max_size=3))
layer_pattern = st.one_of(st.none(), st.sampled_from(["layers", "h", ""]), st.lists(st.sampled_from(["layers", "h"]), max_size=2))


@st.composite
def configs(draw: st.DrawFn) -> dict[str, object]:
    is_list = draw(st.booleans())
    raw: dict[str, object] = {
        "target_modules": draw(names) if is_list else draw(pattern),
        "exclude_modules": draw(st.one_of(st.none(), names, pattern)),
        "modules_to_save": draw(st.one_of(st.none(), st.lists(component, max_size=2))),
    }
    if is_list:
        raw |= {"layers_to_transform": draw(layers), "layers_pattern": draw(layer_pattern)}
    return raw


def ours(raw: dict[str, object], name: str) -> bool:
    return bool(decide(AdapterConfig(Path("x"), raw, ""), name).targeted)


def theirs(raw: dict[str, object], name: str) -> bool:
    config = SimpleNamespace(**{"target_parameters": None, "layers_to_transform": None, "layers_pattern": None, **raw})
    return bool(utils.check_target_module_exists(config, name))


@settings(max_examples=400, deadline=None)
@given(configs(), st.lists(module, min_size=1, max_size=6))
def test_the_verdict_is_pefts(raw: dict[str, object], modules: list[str]) -> None:
    for name in modules:
        assert ours(raw, name) == theirs(raw, name), (raw, name)


@settings(max_examples=500, deadline=None)
@given(names, tail, st.lists(component, max_size=3))
def test_a_listed_suffix_is_targeted(listed: list[str], target: str, prefix: list[str]) -> None:
    raw = {"target_modules": [*listed, target]}
    name = ".".join([*prefix, target])
    assert ours(raw, name)
    assert theirs(raw, name)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(tail, pattern, tail.map(lambda t: f"^{t}")), max_size=4), module)
def test_the_pattern_key_is_pefts(keys: list[str], name: str) -> None:
    found = pattern_key(dict.fromkeys(keys, 1), name)
    assert (name if found is None else found) == other.get_pattern_key(list(dict.fromkeys(keys)), name)


def test_a_suffix_needs_a_dot() -> None:
    assert not ours({"target_modules": ["proj"]}, "model.layers.0.q_proj")


def test_a_full_name_escapes_the_layer_filter() -> None:
    raw = {"target_modules": ["model.layers.3.q_proj"], "layers_to_transform": [0]}
    assert ours(raw, "model.layers.3.q_proj")
    assert theirs(raw, "model.layers.3.q_proj")


def test_all_linear_needs_the_base_model() -> None:
    assert decide(AdapterConfig(Path("x"), {"target_modules": "All-Linear"}, ""), "model.q_proj").targeted is None
