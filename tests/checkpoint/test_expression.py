"""Regular expressions in a config: none of them hangs the check, whoever wrote it."""

import json
import re

import pytest

from loradoctor.checkpoint import expression
from loradoctor.checkpoint.run import CheckOptions, check
from tests.checkpoint.test_hostile import store

MODULE = "model.layers.0.self_attn.q_proj"
TENSORS = {f"base_model.model.{MODULE}.lora_{half}.weight": (shape, "F32") for half, shape in (("A", [2, 4]), ("B", [4, 2]))}
ENDLESS = "(.*)*x(.*)*y(.*)*z"
DEEP = "(" * 500 + ")" * 500


def test_an_expression_that_does_not_end_is_given_up():
    with pytest.raises(expression.TooSlowError):
        expression.fullmatch(ENDLESS, MODULE)


def test_an_expression_that_repeats_much_and_ends_is_matched():
    assert expression.fullmatch(r"(\w+\.)*layers\.\d+\.(\w+\.)+(q|v)_proj", MODULE) is not None


def test_an_expression_that_cannot_be_compiled_is_an_error_of_re():
    with pytest.raises(re.error):
        expression.match(DEEP, MODULE)


@pytest.mark.parametrize("pattern", [ENDLESS, DEEP], ids=["endless", "deep"])
@pytest.mark.parametrize("field", ["target_modules", "exclude_modules", "rank_pattern", "alpha_pattern"])
def test_the_field_that_holds_it_is_named(tmp_path, field, pattern):
    value = {pattern: 2} if field.endswith("_pattern") else pattern
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "org/base", field: value}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    store(tmp_path / "adapter_model.safetensors", TENSORS, 60)

    found = [d for d in check(str(tmp_path), CheckOptions(base="none")).diagnostics if d.severity != "info"]

    assert [(d.code, d.data["field"]) for d in found] == [("LD522", field)]
