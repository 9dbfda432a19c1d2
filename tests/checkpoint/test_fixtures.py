"""Every adapter under `fixtures/adapters` gets exactly the findings that its `expected.json` names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loradoctor.checkpoint.run import CheckOptions, check_many
from loradoctor.registry import family

ROOT = Path(__file__).parents[2] / "fixtures" / "adapters"
CASES = sorted(p.parent.name for p in ROOT.glob("*/expected.json"))


def expected(case: str) -> dict[str, Any]:
    return json.loads((ROOT / case / "expected.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_findings_without_the_base(case: str) -> None:
    report = check_many([str(ROOT / case)], CheckOptions(base="none"))
    found = [(d.code, d.severity.value) for d in report.diagnostics]
    # A list, not a set: one cause is one finding.
    assert sorted(found) == sorted(expected(case)["light"].items()), [d.message for d in report.diagnostics]


@pytest.fixture
def torch_side_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The torch side in this process: importing its libraries once serves all cases."""
    pytest.importorskip("peft")
    from loradoctor.checkpoint import base
    from loradoctor.oracle.examine import examine

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def ask(request: dict[str, Any], **_: object) -> Any:
        return json.loads(json.dumps(examine(request, lambda _: None)))

    monkeypatch.setattr(base, "ask", ask)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("torch_side_here")
@pytest.mark.parametrize("case", [c for c in CASES if "base" in expected(c)])
def test_findings_with_the_base(case: str) -> None:
    wanted = expected(case)
    report = check_many([str(ROOT / case)], CheckOptions(base=str(ROOT.parent / wanted["on"])))
    found = [(d.code, d.severity.value) for d in report.diagnostics]
    assert sorted(found) == sorted(wanted["base"].items()), [d.message for d in report.diagnostics]
    merge = next(c for c in report.checks if c.name == "merge-equivalence")
    if case.startswith("good_"):
        assert merge.status == ("not-run" if case == "good_prefix" else "passed"), merge.reason
    elif case.startswith("merge_"):
        assert merge.status in ("failed", "not-run"), merge.reason
    elif any(s == "error" for s in wanted["base"].values()):
        assert merge.status == "vacuous", merge.reason


def test_there_is_a_fixture_for_every_rule() -> None:
    shown = {code for case in CASES for tier in ("light", "base") for code in expected(case).get(tier, {})}
    of_targets = {"LD820", "LD821"}  # test_targets.py makes an adapter for every row of every runtime
    of_merged = {f"LD81{n}" for n in range(6)}  # test_audit_faults.py and test_audit_files.py plant every cause in a merged model
    assert {r.code for name in ("checkpoint", "merge") for r in family(name)} - of_targets - of_merged <= shown


def test_the_fixtures_stay_small() -> None:
    assert sum(p.stat().st_size for p in ROOT.parent.rglob("*") if p.is_file()) < 1 << 20


@pytest.mark.parametrize("case", CASES)
def test_every_finding_has_a_cause_that_programs_can_read(case: str) -> None:
    report = check_many([str(ROOT / case)], CheckOptions(base="none"))
    assert [d.code for d in report.diagnostics if not d.data.get("cause")] == []
