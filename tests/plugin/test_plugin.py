"""The pytest plugin, as a user's own test suite sees it."""

import pytest

LOAD = """
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

def load(adapter):
    base = AutoModelForCausalLM.from_pretrained(r"{tiny}/base")
    return PeftModel.from_pretrained(base, rf"{tiny}/{{adapter}}")

INPUTS = {{"input_ids": torch.arange(6).reshape(1, 6)}}
"""


@pytest.fixture
def suite(pytester, tiny):
    """Run one test function's source in a suite of its own; ``{tiny}`` stands for the directory of the models."""

    def run(source, *, load=False):
        prelude = LOAD.format(tiny=tiny) if load else ""
        pytester.makepyfile(prelude + source.replace("{tiny}", str(tiny)))
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:randomly", "-W", "default")

    return run


def _errors(result):
    """What a failing test says, line by line."""
    return [line.removeprefix("E      ").strip() for line in result.outlines if line.startswith("E  ")]


def test_a_sound_adapter_passes(suite):
    result = suite("def test(assert_adapter):\n    report = assert_adapter(r'{tiny}/trained')\n    assert report.subjects")
    result.assert_outcomes(passed=1)


def test_a_sound_adapter_passes_against_its_base(suite):
    result = suite("def test(assert_adapter):\n    assert_adapter(r'{tiny}/trained', base=r'{tiny}/base')")
    result.assert_outcomes(passed=1)


def test_an_untrained_adapter_fails_and_reads_like_the_command_line(suite, tiny):
    result = suite("def test(assert_adapter):\n    assert_adapter(r'{tiny}/untrained', base='none')")
    result.assert_outcomes(failed=1)
    said = _errors(result)
    assert said[0] == f"AssertionError: the adapter at `{tiny}/untrained` is not sound"
    assert any(line.startswith("error[LD702]: ") for line in said)
    assert any(line == "= explain: loradoctor explain LD702" for line in said)
    assert said[-1].startswith("1 error in 1 checkpoint")


def test_the_failure_points_at_the_users_test_not_into_our_code(suite):
    result = suite("def test(assert_adapter):\n    assert_adapter(r'{tiny}/untrained', base='none')")
    assert not [line for line in result.outlines if "loradoctor/testing.py" in line]


def test_a_finding_can_be_ignored(suite):
    result = suite("def test(assert_adapter):\n    assert_adapter(r'{tiny}/untrained', base='none', ignore=['untrained'])")
    result.assert_outcomes(passed=1)


BUG = "from peft import PeftModel\nm = PeftModel.from_pretrained(base, path)\nm.merge_and_unload()\nm.save_pretrained(out)\n"


@pytest.fixture
def scripts(pytester):
    """A directory of training scripts, one of them with a bug."""
    directory = pytester.mkdir("scripts")
    (directory / "merge.py").write_text(BUG)
    (directory / "fine.py").write_text("import peft\n")
    return directory


def test_clean_code_passes(suite, scripts):
    suite("def test(assert_lint_clean):\n    assert_lint_clean('scripts/fine.py')").assert_outcomes(passed=1)


def test_a_bug_in_code_fails_and_shows_the_line(suite, scripts):
    result = suite("def test(assert_lint_clean):\n    assert_lint_clean(['scripts'])")
    result.assert_outcomes(failed=1)
    said = _errors(result)
    assert said[0] == "AssertionError: `scripts` is not clean"
    assert "--> scripts/merge.py:3:1" in said
    assert "3 | m.merge_and_unload()" in said


def test_a_bug_in_code_can_be_ignored(suite, scripts):
    suite("def test(assert_lint_clean):\n    assert_lint_clean('scripts', ignore=['LD301'])").assert_outcomes(passed=1)


def test_a_merge_that_keeps_the_outputs_passes(suite):
    result = suite("def test(assert_merge_equivalent):\n    assert_merge_equivalent(load('trained'))", load=True)
    result.assert_outcomes(passed=1)


def test_a_merge_is_proven_from_disk_too(suite):
    result = suite("def test(assert_merge_equivalent):\n    assert_merge_equivalent(r'{tiny}/trained', base=r'{tiny}/base')")
    result.assert_outcomes(passed=1)


def test_an_adapter_without_effect_proves_nothing(suite):
    result = suite("def test(assert_merge_equivalent):\n    assert_merge_equivalent(load('untrained'))", load=True)
    result.assert_outcomes(failed=1)
    assert _errors(result)[0].startswith("AssertionError: merge equivalence is not proven, the check is `vacuous`: ")


def test_a_comparison_that_was_not_made_proves_nothing(suite):
    result = suite("def test(assert_merge_equivalent):\n    assert_merge_equivalent(r'{tiny}/trained', base='none')")
    result.assert_outcomes(failed=1)
    assert _errors(result)[0].startswith("AssertionError: merge equivalence is not proven, the check is `not-run`: ")


def test_an_adapter_that_acts_is_effective(suite):
    source = "def test(assert_adapter_effective):\n    assert assert_adapter_effective(load('trained'), INPUTS) > 0"
    suite(source, load=True).assert_outcomes(passed=1)


def test_an_adapter_that_does_nothing_is_not_effective(suite):
    result = suite("def test(assert_adapter_effective):\n    assert_adapter_effective(load('untrained'), INPUTS)", load=True)
    result.assert_outcomes(failed=1)
    assert _errors(result)[0].startswith("AssertionError: the adapter does not change what the model answers: ")


def test_more_than_a_trace_can_be_asked_for(suite):
    source = "def test(assert_adapter_effective):\n    assert_adapter_effective(load('trained'), INPUTS, more_than=1e6)"
    suite(source, load=True).assert_outcomes(failed=1)


def test_the_bug_of_an_adapter_on_an_adapter_is_caught(suite):
    source = """
from peft import LoraConfig, get_peft_model

def test(assert_adapter_effective):
    base = AutoModelForCausalLM.from_pretrained(r"{tiny}/base")
    wrapped = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    assert_adapter_effective(PeftModel.from_pretrained(wrapped, r"{tiny}/trained"), INPUTS)
"""
    suite(source, load=True).assert_outcomes(failed=1)


def test_the_functions_work_without_fixtures(suite):
    source = "from loradoctor.testing import assert_adapter\n\ndef test():\n    assert_adapter(r'{tiny}/trained', base='none')"
    suite(source).assert_outcomes(passed=1)


def test_the_fixtures_are_documented(pytester):
    shown = pytester.runpytest_inprocess("--fixtures", "-p", "no:cacheprovider").stdout.str()
    for name in ("assert_adapter", "assert_lint_clean", "assert_merge_equivalent", "assert_merged", "assert_adapter_effective"):
        assert f"{name} [session scope]" in shown
