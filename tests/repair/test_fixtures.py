"""Every fixture: repaired and clean, refused with a reason, or nothing to do because nothing was wrong that can be put right."""

from pathlib import Path

import pytest

from loradoctor.checkpoint.run import CheckOptions, check
from loradoctor.diagnostic import Severity
from loradoctor.repair.run import RepairOptions, repair

ADAPTERS = Path(__file__).parents[2] / "fixtures" / "adapters"


def errors(path):
    """The codes of errors about files, config, keys and shapes."""
    found = check(str(path), CheckOptions(base="none")).at_least(Severity.ERROR)
    return {d.code for d in found if d.code.startswith(("LD5", "LD6"))}


@pytest.mark.parametrize("name", sorted(p.name for p in ADAPTERS.iterdir()))
def test_every_fixture(name, tmp_path):
    (outcome,) = repair(str(ADAPTERS / name), RepairOptions(output=str(tmp_path / "new"), base="none"))
    if outcome.status == "repaired":
        assert errors(tmp_path / "new") == set()
        again = repair(str(tmp_path / "new"), RepairOptions(dry_run=True, base="none"))
        assert [one.status for one in again] == ["nothing-to-do"]
    elif outcome.status == "refused":
        assert outcome.plan.refusals[0].what
        assert not (tmp_path / "new").exists()
    else:
        assert outcome.status == "nothing-to-do"
        assert errors(ADAPTERS / name) == set()


def test_healthy_ones_are_left_alone():
    for path in sorted(ADAPTERS.glob("good_*")):
        (outcome,) = repair(str(path), RepairOptions(dry_run=True, base="none"))
        wanted = "planned" if path.name == "good_bin" else "nothing-to-do"
        assert (path.name, outcome.status) == (path.name, wanted)


def test_fields_that_nothing_sets_go():
    (outcome,) = repair(str(ADAPTERS / "field_switched_off"), RepairOptions(dry_run=True, base="none"))
    assert [(s.field, s.old) for s in outcome.plan.config_steps] == [("use_moebius", False)]


def test_fields_that_are_set_stay():
    (outcome,) = repair(str(ADAPTERS / "field_of_the_future"), RepairOptions(dry_run=True, base="none"))
    assert outcome.status == "nothing-to-do"
    assert "use_moebius" in outcome.plan.notes[0]
