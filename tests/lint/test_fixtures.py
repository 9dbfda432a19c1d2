"""Every fixture is linted, and says on its own lines what must be found there; every unmarked line is silent."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from loradoctor import registry
from loradoctor.config import Settings
from loradoctor.diagnostic import Diagnostic
from loradoctor.lint import rewrite
from loradoctor.lint.pipeline import Pipeline
from loradoctor.lint.source import Source
from tests.lint.fixture_files import FIXTURES, expected, lint_bytes, reported, subjects

SUBJECTS = subjects()
SEVERITIES = {rule.code: rule.severity.value for rule in registry.all_rules()}
RULES = registry.family("lint")
fixtures = pytest.mark.parametrize("path", SUBJECTS, ids=lambda p: p.name)


def _sentences(places: Counter[tuple[int | None, int, str, str]], found: tuple[Diagnostic, ...] = ()) -> str:
    messages = {(d.location.cell, d.location.span.line if d.location.span else 0, d.code): d.message for d in found}
    return "".join(
        f"\n  {'' if cell is None else f'cell {cell} '}line {line}: {code} {severity} {messages.get((cell, line, code), '')}"
        for cell, line, code, severity in sorted(places.elements(), key=str)
    )


@fixtures
def test_a_fixture_is_found_out(path: Path) -> None:
    found = lint_bytes(path)
    missed = expected(path, SEVERITIES) - reported(found)
    assert not missed, f"{path.name}: marked and not found:{_sentences(missed)}"


@fixtures
def test_an_unmarked_line_is_silent(path: Path) -> None:
    found = tuple(d for d in lint_bytes(path) if d.severity.value != "info" or d.code in path.read_text())
    false = reported(found) - expected(path, SEVERITIES)
    assert not false, f"{path.name}: found and not marked:{_sentences(false, found)}"


@fixtures
@pytest.mark.parametrize("unsafe", [False, True], ids=["safe", "unsafe"])
def test_a_fix_repairs_and_harms_nothing(path: Path, unsafe: bool) -> None:
    data = path.read_bytes()
    outcome = rewrite.repair(str(path), data, Pipeline(Settings()), unsafe=unsafe)
    assert not outcome.refused, f"{path.name}: a fix was refused"
    left = [d for d in outcome.report.diagnostics if d.fix and (d.fix.safe or unsafe)]
    assert not left, f"{path.name}: still found after its fix:{_sentences(reported(tuple(left)), tuple(left))}"
    before, after = lint_bytes(path), outcome.report.diagnostics
    fixable = sum(bool(d.fix and (d.fix.safe or unsafe)) for d in before)
    assert len(after) == len(before) - fixable, f"{path.name}: the fixes silenced or caused something else"
    lost = rewrite.lost_comments(Source.from_bytes(str(path), data), Source.from_bytes(str(path), outcome.data))
    assert not lost, f"{path.name}: the fixes lost {lost}"


@fixtures
def test_safe_fixes_write_what_stands_beside_the_fixture(path: Path) -> None:
    beside = path.with_name(f"{path.stem}.fixed{path.suffix}")
    fixed = rewrite.repair(str(path), path.read_bytes(), Pipeline(Settings()), unsafe=False).data
    if fixed == path.read_bytes():
        assert not beside.exists(), f"{beside.name} stands beside a fixture that has no safe fix"
    else:
        assert beside.exists(), f"{path.name} has a safe fix; put its result into {beside.name}"
        assert fixed.decode() == beside.read_text()


@pytest.mark.parametrize("path", [p for p in SUBJECTS if p.suffix == ".ipynb"], ids=lambda p: p.name)
def test_a_fixed_notebook_differs_in_the_source_of_its_cells_alone(path: Path) -> None:
    data = path.read_bytes()
    fixed = rewrite.repair(str(path), data, Pipeline(Settings()), unsafe=True).data
    before, after = json.loads(data), json.loads(fixed)
    for notebook in (before, after):
        for cell in notebook["cells"]:
            cell.pop("source")
    assert before == after
    changed = [a for a, b in zip(data.splitlines(), fixed.splitlines(), strict=False) if a != b]
    assert len(changed) <= sum(len(d.fix.edits) for d in lint_bytes(path) if d.fix)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_a_rule_has_a_bad_and_a_good_fixture(rule: registry.Rule[object]) -> None:
    bad = [p for p in SUBJECTS if any(code == rule.code for _, _, code, _ in expected(p, SEVERITIES))]
    assert bad, f"no fixture is marked with {rule.code}"
    good = FIXTURES / f"{rule.name.replace('-', '_')}_ok.py"
    assert good.exists(), f"write the look-alikes that {rule.code} must leave alone into {good.name}"
    assert not expected(good, SEVERITIES), f"{good.name} is marked: look-alikes stay silent"


def test_every_fixture_belongs_to_a_rule_or_a_notebook() -> None:
    stems = {r.name.replace("-", "_") for r in RULES}
    strangers = [p.name for p in SUBJECTS if p.suffix == ".py" and p.stem.partition("_ok")[0] not in stems]
    assert not strangers


def test_a_mark_that_cannot_be_read_fails(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("f()  # expect: LD1\n")
    with pytest.raises(AssertionError, match="cannot read the mark"):
        expected(tmp_path / "x.py", SEVERITIES)


def test_a_mark_without_a_finding_and_a_finding_without_a_mark_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("import peft\nf()  # expect: LD101\n")
    marked, found = expected(tmp_path / "x.py", SEVERITIES), reported(lint_bytes(tmp_path / "x.py"))
    assert marked - found == Counter({(None, 2, "LD101", "error"): 1})
    assert not found - marked
