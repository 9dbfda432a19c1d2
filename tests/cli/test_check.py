"""`loradoctor check` from the outside."""

import json
import shutil
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def adapters(project):
    """A sound adapter and one that was never trained, in the project."""
    for name, copy in (("good_lora", "sound"), ("untrained", "untrained")):
        shutil.copytree(FIXTURES / "adapters" / name, project / "out" / copy)
    return project


def test_a_sound_adapter(loradoctor, adapters):
    result = loradoctor("check", "--no-base", "out/sound")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("out/sound (adapter)\n  method ")
    assert result.out.endswith("\n\nno findings in 1 checkpoint\n")


def test_an_untrained_adapter(loradoctor, adapters):
    result = loradoctor("check", "--no-base", "out/untrained")
    assert result.code == 1
    assert "\nerror[LD702]: " in result.out
    assert "\n --> out/untrained/adapter_model.safetensors\n" in result.out


def test_each_adapter_has_its_card_before_its_findings(loradoctor, adapters):
    out = loradoctor("check", "--no-base", "out/untrained", "out/sound").out
    places = [out.index(text) for text in ("out/untrained (adapter)", "error[LD702]", "out/sound (adapter)", "1 error in 2 checkpoints")]
    assert places == sorted(places)


def test_config_and_weights_are_one_adapter(loradoctor, adapters):
    files = ("out/sound/adapter_config.json", "out/sound/adapter_model.safetensors")
    result = loradoctor("check", "--no-base", "--format", "json", *files)
    assert result.code == 0
    assert len(json.loads(result.out)["subjects"]) == 1


def test_json_says_what_was_not_looked_at(loradoctor, adapters):
    result = loradoctor("check", "--no-base", "--format", "json", "out/sound", "out/untrained")
    document = json.loads(result.out)
    assert (result.code, result.err) == (1, "")
    merges = {c["subject"]: c["status"] for c in document["checks"] if c["name"] == "merge-equivalence"}
    assert merges == {"out/sound": "not-run", "out/untrained": "vacuous"}
    sound = next(s for s in document["subjects"] if s["path"] == "out/sound")
    assert {"method", "base", "r", "alpha", "scaling", "modules", "parameters", "dtypes", "bytes"} <= set(sound)
    assert sound["parameters"] == 512


def test_a_rule_can_be_ignored(loradoctor, adapters):
    assert loradoctor("check", "--no-base", "--ignore", "untrained", "out/untrained").code == 0


def test_a_rule_can_be_ignored_for_a_path(loradoctor, adapters):
    (adapters / "pyproject.toml").write_text('[tool.loradoctor.per-path-ignores]\n"out/untrained" = ["LD702"]\n')
    result = loradoctor("check", "--no-base", "out/untrained")
    assert result.code == 0
    assert "1 suppressed" in result.out


def test_a_base_that_was_insisted_on_must_be_there(loradoctor, adapters):
    result = loradoctor("check", "--base", "gone/base", "--format", "json", "out/sound")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("loradoctor: error: ")
    assert result.err.count("\n") == 1


def test_an_interpreter_that_is_not_there_is_one_line(loradoctor, adapters):
    result = loradoctor("check", "--python", "gone/python", "--base", FIXTURES / "base", "out/sound")
    assert (result.code, result.out) == (2, "")
    assert "`gone/python`" in result.err


def test_a_base_that_is_not_there_is_said_and_not_passed(loradoctor, adapters, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(adapters / "empty"))
    result = loradoctor("check", "out/sound")
    assert result.code == 0
    assert "merge-equivalence  not run  the base model `loradoctor/tiny-llama` is not on this machine" in result.out


@pytest.mark.parametrize(("flag", "status"), [("--merge", "passed"), ("--no-merge", "not-run")])
def test_against_the_base(loradoctor, adapters, flag, status):
    pytest.importorskip("torch")
    asked = [flag] if flag == "--no-merge" else []
    result = loradoctor("check", "--base", FIXTURES / "base", *asked, "--format", "json", "out/sound")
    assert result.code == 0, result.err
    statuses = {c["name"]: c["status"] for c in json.loads(result.out)["checks"]}
    assert (statuses["loads"], statuses["merge-equivalence"]) == ("passed", status)


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "soon"])
def test_a_time_limit_must_be_one(loradoctor, adapters, seconds):
    result = loradoctor("check", f"--timeout={seconds}", "out/sound")
    assert (result.code, result.out) == (2, "")
    assert "--timeout" in result.err
