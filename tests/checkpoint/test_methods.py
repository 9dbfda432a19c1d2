"""The hand-written tables against the installed PEFT."""

from __future__ import annotations

import dataclasses

import pytest

from loradoctor.checkpoint.methods import METHODS, guess, method_of
from loradoctor.checkpoint.methods.fields import known

mapping = pytest.importorskip("peft.mapping")


def test_every_method_of_peft_is_known() -> None:
    assert {t.value for t in mapping.PEFT_TYPE_TO_CONFIG_MAPPING} - set(METHODS) == set()


@pytest.mark.parametrize("peft_type", sorted(t.value for t in mapping.PEFT_TYPE_TO_CONFIG_MAPPING))
def test_every_config_field_is_known(peft_type: str) -> None:
    config = mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft_type]
    assert {f.name for f in dataclasses.fields(config) if f.init} - known(peft_type) == set()


@pytest.mark.parametrize("peft_type", sorted(t.value for t in mapping.PEFT_TYPE_TO_PREFIX_MAPPING))
def test_the_prefixes_are_pefts(peft_type: str) -> None:
    method = METHODS[peft_type]
    prefix = mapping.PEFT_TYPE_TO_PREFIX_MAPPING[peft_type]
    assert (
        method.prompt
        or method.owns(prefix)
        or any(p.startswith(prefix) for p in method.prefixes)
        or peft_type in ("ADAPTION_PROMPT", "XLORA")
    )


def test_a_name_is_looked_up_as_written() -> None:
    assert method_of("lora").peft_type == ""


def test_tensors_point_to_their_method() -> None:
    assert [m.peft_type for m in guess(frozenset({"ia3_l"}))] == ["IA3"]
