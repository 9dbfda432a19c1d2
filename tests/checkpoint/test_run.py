"""A whole run of the light tier: subjects, checks, suppression, failures, and what it does not import."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loradoctor.checkpoint import base
from loradoctor.checkpoint.run import CheckOptions, check, check_many
from loradoctor.config import Settings
from loradoctor.diagnostic import Report

ROOT = Path(__file__).parents[2] / "fixtures" / "adapters"


def light(case: str, **settings: object) -> Report:
    return check(str(ROOT / case), CheckOptions(base="none", settings=Settings(**settings)))  # type: ignore[arg-type]


def status(report: Report, name: str) -> tuple[str, str]:
    found = next(c for c in report.checks if c.name == name)
    return found.status, found.reason


def test_the_facts_of_a_plain_adapter() -> None:
    facts = light("good_lora").subjects[0].facts
    expected = {
        "method": "LORA",
        "base": "loradoctor/tiny-llama",
        "r": 4,
        "alpha": 8,
        "scaling": 2.0,
        "modules": {"q_proj": 2, "v_proj": 2},
        "layers": 2,
        "parameters": 512,
        "dtypes": {"F32": 8},
        "task_type": "CAUSAL_LM",
        "weights": "adapter_model.safetensors",
    }
    assert {k: facts[k] for k in expected} == expected


def test_ranks_and_scalings_that_differ_are_all_shown() -> None:
    facts = light("good_patterns").subjects[0].facts
    assert (facts["r"], facts["scaling"]) == ({"2": 1, "4": 3}, [2.0, 4.0])


def test_every_check_of_a_healthy_adapter_passes_except_what_needs_the_base() -> None:
    report = light("good_lora")
    assert {c.name: c.status for c in report.checks} == {
        "files": "passed",
        "config": "passed",
        "keys": "passed",
        "shapes": "passed",
        "values": "passed",
        "loads": "not-run",
        "merge-equivalence": "not-run",
    }


def test_shapes_of_other_methods_are_checked_too() -> None:
    assert status(light("good_ia3"), "shapes")[0] == "passed"


def test_what_is_not_checked_of_an_unknown_method_is_said() -> None:
    assert status(light("method_unknown"), "shapes")[0] == "not-run"


@pytest.mark.parametrize("case", ["nested", "untrained", "not_a_number", "truncated"])
def test_equality_that_would_prove_nothing_is_vacuous(case: str) -> None:
    assert status(light(case), "merge-equivalence")[0] == "vacuous"


def test_ignored_codes_do_not_run_and_ignored_paths_are_counted() -> None:
    assert light("nested", ignore=frozenset({"LD601"})).diagnostics == ()
    report = light("nested", per_path_ignores={"fixtures/adapters/nested": frozenset({"LD601"})})
    assert (report.diagnostics, report.suppressed) == ((), 1)
    assert len(light("nested", per_path_ignores={"fixtures/adapters/good_*": frozenset({"LD601"})}).diagnostics) == 1


def test_a_failure_of_the_torch_side_keeps_what_the_files_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(base, "examine", broken)
    report = check(str(ROOT / "nested"), CheckOptions())
    assert [d.code for d in report.diagnostics] == ["LD002", "LD601"]
    assert status(report, "loads")[0] == "not-run"


def test_values_that_cannot_be_read_are_one_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from loradoctor.checkpoint import delta

    def gone(*_: object) -> None:
        raise OSError("the file ended inside a tensor at byte 9")

    monkeypatch.setattr(delta, "scan", gone)
    report = light("good_lora")
    assert [d.code for d in report.diagnostics] == ["LD002"]
    assert status(report, "values")[0] == "not-run"


def test_partitioned_states_are_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "no_weights", tmp_path / "checkpoint-5")
    (tmp_path / "checkpoint-5" / "global_step5").mkdir()
    (diagnostic,) = check(str(tmp_path / "checkpoint-5"), CheckOptions(base="none")).diagnostics
    assert (diagnostic.code, diagnostic.data["cause"]) == ("LD501", "partitioned")


def test_one_adapter_named_twice_is_checked_once() -> None:
    target = ROOT / "good_lora"
    report = check_many(
        [str(target), str(target / "adapter_config.json"), str(target / "adapter_model.safetensors")], CheckOptions(base="none")
    )
    assert len(report.subjects) == 1


def test_a_lone_weights_file_under_another_name(tmp_path: Path) -> None:
    shutil.copy(ROOT / "good_lora" / "adapter_model.safetensors", tmp_path / "poet.safetensors")
    report = check(str(tmp_path / "poet.safetensors"), CheckOptions(base="none"))
    assert [d.code for d in report.diagnostics] == ["LD520"]
    assert report.subjects[0].facts["tensors"] == 8


def test_a_directory_in_place_of_the_config_is_unreadable(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "good_lora", tmp_path / "a")
    (tmp_path / "a" / "adapter_config.json").unlink()
    (tmp_path / "a" / "adapter_config.json").mkdir()
    assert "LD004" in [d.code for d in check(str(tmp_path / "a"), CheckOptions(base="none")).diagnostics]


def test_the_light_tier_imports_no_torch() -> None:
    program = (
        "import sys; from loradoctor.checkpoint.run import CheckOptions, check_many; "
        f"check_many([{str(ROOT / 'good_lora')!r}, {str(ROOT / 'good_bin')!r}], CheckOptions(base='none')); "
        "print(sorted({'torch', 'transformers', 'peft', 'safetensors', 'rich', 'libcst', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
