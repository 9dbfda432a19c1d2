"""`check` names `repair` exactly where it would succeed."""

from __future__ import annotations

import pytest

from loradoctor.cli import run


@pytest.mark.parametrize("number", ["100", "104", "407"])
def test_a_repairable_adapter_is_offered_its_repair(number, case, tmp_path, capsys):
    path = case(number)
    assert run(["check", "--no-base", str(path)]) == 1
    assert f"`loradoctor repair {path} --output NEW` writes a corrected copy" in capsys.readouterr().out
    assert run(["repair", "--no-base", str(path), "--output", str(tmp_path / "new")]) == 0


def test_what_only_a_person_can_decide_is_not_offered(case, capsys):
    assert run(["check", "--no-base", str(case("204"))]) == 1
    assert "loradoctor repair" not in capsys.readouterr().out


def test_a_sound_adapter_is_left_alone(capsys):
    assert run(["check", "--no-base", "fixtures/adapters/good_lora"]) == 0
    assert "loradoctor repair" not in capsys.readouterr().out


def test_a_merge_that_is_refused_offers_the_repair_too(case, bases, tmp_path, capsys):
    path = case("104")
    assert run(["merge", str(path), "--base", str(bases()), "--output", str(tmp_path / "merged")]) == 1
    told = capsys.readouterr().out
    assert f"`loradoctor repair {path} --output NEW` writes a corrected copy" in told
    assert "--no-base" not in told
