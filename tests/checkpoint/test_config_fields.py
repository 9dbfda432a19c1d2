"""Config fields of every method: what PEFT refuses, what it takes for something else, what it does not know."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.methods.constraints import CONSTRAINTS, Constraint, broken
from loradoctor.checkpoint.methods.fields import COMMON, fields, is_newer, newest, release
from loradoctor.checkpoint.run import CheckOptions, check
from loradoctor.diagnostic import Diagnostic
from tests.checkpoint import zoo

ROOT = Path(__file__).parents[2] / "fixtures" / "adapters"
mapping = pytest.importorskip("peft.mapping")
TYPES = sorted(t.value for t in mapping.PEFT_TYPE_TO_CONFIG_MAPPING)
pytestmark = pytest.mark.filterwarnings("ignore")


def config(values: dict[str, Any]) -> AdapterConfig:
    return AdapterConfig(Path("adapter_config.json"), values, "{}")


def usual(peft_type: str) -> tuple[zoo.Case, dict[str, Any]]:
    case = next(c for c in zoo.CASES.values() if c.peft_type == peft_type)
    values = {"task_type": "CAUSAL_LM", **case.values} if case.model is zoo.llama else dict(case.values)
    if "target_modules" in zoo.fields(peft_type) and case.model is zoo.mixed:
        values.setdefault("target_modules", zoo.LINEAR)
    return case, values


def refused(case: zoo.Case, values: dict[str, Any]) -> bool:
    import peft

    try:
        peft.get_peft_model(case.model(), mapping.PEFT_TYPE_TO_CONFIG_MAPPING[case.peft_type](**values))
    except Exception:  # whatever it is, PEFT refuses
        return True
    return False


PAIRS = [
    pytest.param(c, t, id=f"{t}-{c.field}-{i}") for i, c in enumerate(CONSTRAINTS) for t in c.methods if t in TYPES and t != "ADAMSS"
]


@pytest.mark.parametrize(("constraint", "peft_type"), PAIRS)
def test_what_a_constraint_forbids_peft_refuses(constraint: Constraint, peft_type: str) -> None:
    case, values = usual(peft_type)
    assert not constraint.broken(config(values))
    assert constraint.broken(config({**values, **constraint.example}))
    assert not refused(case, values)
    assert refused(case, {**values, **constraint.example})


@pytest.mark.parametrize("peft_type", TYPES)
def test_defaults_break_nothing(peft_type: str) -> None:
    """A missing field is PEFT's default, which may ask for another field but never has a wrong value."""
    needed = {"total_step", "task_type", "feedforward_modules"}
    assert {field for field, _ in broken(peft_type, config({}))} <= needed


@pytest.mark.parametrize("peft_type", TYPES)
def test_the_types_are_pefts(peft_type: str) -> None:
    declared = mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft_type]
    table = fields(peft_type)
    for field in dataclasses.fields(declared):
        if field.init and field.name not in COMMON:
            assert field.name in table
            default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
            if isinstance(default, (bool, int, float, list, dict)) or (isinstance(default, str) and type(default) is str):
                assert table[field.name].takes(default)


def test_releases_are_compared_by_number() -> None:
    assert (release("0.9.0") or ()) < (release("0.18.0.post1") or ())
    assert release("0.18.1.dev0@1234") is None
    assert (is_newer("99.0"), is_newer("99.0.dev0@abc"), is_newer(newest()), is_newer(None)) == (True, True, False, False)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "good_lora", tmp_path / "a")
    return tmp_path / "a"


def found(adapter: Path, **changes: object) -> list[Diagnostic]:
    path = adapter / "adapter_config.json"
    raw = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in raw.items() if v is not ...}))
    return [d for d in check(str(adapter), CheckOptions(base="none")).diagnostics if d.code != "LD525"]


@pytest.mark.parametrize(
    "change",
    [
        {"use_dora": "false"},
        {"modules_to_save": "classifier"},
        {"rank_pattern": [4]},
        {"lora_dropout": "0.1"},
        {"lora_alpha": True},
        {"layers_to_transform": "1"},
        {"trainable_token_indices": "5"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_value_of_another_kind_is_an_error(adapter: Path, change: dict[str, object]) -> None:
    assert ("LD522", next(iter(change))) in {(d.code, d.data.get("field")) for d in found(adapter, **change)}


@pytest.mark.parametrize("change", [{"lora_alpha": 16.0}, {"use_dora": 0}, {"rank_pattern": None}, {"lora_dropout": 0}], ids=str)
def test_numbers_and_nulls_that_do_no_harm(adapter: Path, change: dict[str, object]) -> None:
    assert [d.code for d in found(adapter, **change)] == []


@pytest.mark.parametrize(
    ("wrong", "right"), [("lora_aplha", "lora_alpha"), ("loraAlpha", "lora_alpha"), ("target_module", "target_modules")]
)
def test_a_misspelled_field_is_named(adapter: Path, wrong: str, right: str) -> None:
    value = json.loads((adapter / "adapter_config.json").read_text())[right]
    strange = [d for d in found(adapter, **{wrong: value, right: ...}) if d.code == "LD523"]
    assert [(d.severity.value, d.data["meant"]) for d in strange] == [("warning", right)]


def test_fields_newer_than_their_release_are_information(adapter: Path) -> None:
    strange = found(adapter, peft_version="0.18.0")
    assert {(d.code, d.severity.value, d.data["cause"]) for d in strange} == {("LD523", "info", "newer-than-version")}


def test_parts_of_a_fused_projection_have_no_loader(adapter: Path) -> None:
    assert ("LD522", "enable_lora") in {(d.code, d.data.get("field")) for d in found(adapter, enable_lora=[True, False, True])}


def test_a_method_of_a_newer_peft_is_not_checked(adapter: Path) -> None:
    strange = [d for d in found(adapter, peft_type="QUORA", peft_version="99.1.0") if d.code == "LD521"]
    assert [(d.severity.value, d.data["cause"]) for d in strange] == [("info", "newer")]


def test_a_method_that_no_release_has_is_a_warning(adapter: Path) -> None:
    strange = [d for d in found(adapter, peft_type="QUORA", peft_version="0.18.0") if d.code == "LD521"]
    assert [(d.severity.value, d.data["cause"]) for d in strange] == [("warning", "unknown")]
