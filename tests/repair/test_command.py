"""The command line: exit codes, and reports for people and for programs."""

import json

import pytest

from loradoctor.__main__ import main

from .test_files import contents


def run(capsys, *argv):
    code = main(["repair", *map(str, argv)])
    return code, *capsys.readouterr()


def test_a_repair_exits_with_0_and_tells_what_it_did(case, tmp_path, capsys):
    code, out, err = run(capsys, case("104"), "--output", tmp_path / "new", "--no-base")
    assert (code, err) == (0, "")
    assert f"repaired into {tmp_path / 'new'}" in out
    assert "12 tensors: the model was wrapped twice" in out
    assert "passed updates: 6 modules keep the bytes of both halves" in out


def test_nothing_to_repair_exits_with_0(case, tmp_path, capsys):
    code, out, _ = run(capsys, case("000"), "--output", tmp_path / "new", "--no-base")
    assert (code, (tmp_path / "new").exists()) == (0, False)
    assert out.endswith("nothing to repair\n")


@pytest.mark.parametrize(("number", "said"), [("215", "cannot: 1 tensor would overwrite"), ("303", "beyond repair: LD701")])
def test_what_cannot_be_repaired_exits_with_1(number, said, case, tmp_path, capsys):
    code, out, _ = run(capsys, case(number), "--output", tmp_path / "new", "--no-base")
    assert (code, (tmp_path / "new").exists()) == (1, False)
    assert said in out


def test_values_beyond_repair_are_told_beside_what_was_repaired(case, tmp_path, capsys):
    from catalogue import models

    broken = case("303")
    models.rename(broken, lambda name: f"module.{name}")
    code, out, _ = run(capsys, broken, "--output", tmp_path / "new", "--no-base")
    assert code == 0
    assert "beyond repair: LD701" in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--output", "OUT"], "exists already"),
        (["--output", "NEW", "--base", "/nowhere/at/all"], "does not exist"),
        (["--output", "NEW", "--python", "/nowhere/python", "--base", "BASE"], "cannot be started"),
    ],
)
def test_wrong_usage_exits_with_2(more, said, case, bases, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("")
    places = {"OUT": tmp_path / "out", "NEW": tmp_path / "new", "BASE": bases()}
    code, out, err = run(capsys, case("104"), *(places.get(m, m) for m in more))
    assert (code, out) == (2, "")
    assert said in err


def test_a_target_that_is_not_there_exits_with_2(tmp_path, capsys):
    code, _, err = run(capsys, tmp_path / "gone", "--dry-run")
    assert (code, "does not exist" in err) == (2, True)


def test_json_is_one_object(case, tmp_path, capsys):
    code, out, _ = run(capsys, case("408"), "--dry-run", "--no-base", "--format", "json")
    (repair,) = json.loads(out)["repairs"]
    assert (code, repair["status"]) == (0, "planned")
    assert repair["changes"]["config"] == [{"field": "r", "old": "4", "new": 4, "why": "the shapes of the tensors say so"}]


def test_options_reach_the_repair(case, tmp_path, capsys):
    code, out, _ = run(capsys, case("204"), "--output", tmp_path / "new", "--no-base", "--drop-orphans", "--dtype", "bfloat16")
    assert code == 0
    assert "left out" in out
    assert "BF16 was asked for" in out
    assert "adapter_model.safetensors" in contents(tmp_path / "new")


def test_the_light_repair_imports_no_torch(case, tmp_path):
    from tests.test_structure import _command, _imported_by

    argv = ("repair", "--no-base", str(case("124")), "--output", str(tmp_path / "new"))
    assert _imported_by(_command(*argv), tmp_path) <= {"numpy", "ml_dtypes"}
