"""Every adapter under `fixtures/adapters` gets exactly the findings that its `expected.json` names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loradoctor.checkpoint.run import CheckOptions, check_many
from loradoctor.registry import family

ROOT = Path(__file__).parents[2] / "fixtures" / "adapters"
CASES = sorted(p.parent.name for p in ROOT.glob("*/expected.json"))
# Rules that need the base model, or a machine where a path exists.
WITH_BASE = {"LD604", "LD615", "LD617", "LD618"}


def expected(case: str) -> dict[str, dict[str, str]]:
    return json.loads((ROOT / case / "expected.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_findings_without_the_base(case: str) -> None:
    report = check_many([str(ROOT / case)], CheckOptions(base="none"))
    found = [(d.code, d.severity.value) for d in report.diagnostics]
    # A list, not a set: one cause is one finding.
    assert sorted(found) == sorted(expected(case)["light"].items()), [d.message for d in report.diagnostics]


def test_there_is_a_fixture_for_every_rule() -> None:
    shown = {code for case in CASES for tier in expected(case).values() for code in tier}
    assert {r.code for r in family("checkpoint")} - shown - WITH_BASE == set()


def test_the_fixtures_stay_small() -> None:
    assert sum(p.stat().st_size for p in ROOT.rglob("*") if p.is_file()) < 1 << 20
