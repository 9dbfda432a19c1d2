"""Rules that depend on a library's version, on each side of it: every file says in its first lines what it is written for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import loradoctor.lint.rules as rules
from loradoctor import registry
from loradoctor.config import Settings
from loradoctor.diagnostic import Severity
from loradoctor.lint import rewrite
from loradoctor.lint.pipeline import Pipeline
from tests.lint.fixture_files import FIXTURES, expected, lint_bytes, reported

PINNED = sorted((FIXTURES / "pinned").glob("*.py"))
SEVERITIES = {rule.code: rule.severity.value for rule in registry.all_rules()}
CODES = {rule.name.replace("-", "_"): rule.code for rule in registry.all_rules()}


def _rule(path: Path) -> str:
    return path.name.partition(".")[0]


@pytest.mark.parametrize("path", PINNED, ids=lambda p: p.stem)
def test_a_rule_follows_the_version_a_file_is_written_for(path: Path) -> None:
    marked = expected(path, SEVERITIES)
    found = tuple(d for d in lint_bytes(path) if d.severity.value != "info" or d.code == CODES[_rule(path)])
    assert reported(found) == marked, "\n".join(f"{d.location.span}: {d.code} {d.severity.value} {d.message}" for d in found)


@pytest.mark.parametrize("path", PINNED, ids=lambda p: p.stem)
def test_a_pinned_file_is_named_after_its_pin(path: Path) -> None:
    rule, pin = path.stem.split(".", 1)
    library, _, version = pin.partition("-")
    assert rule in CODES
    assert f'# dependencies = ["{library}=={version}"]' in path.read_text()


def test_every_rule_that_asks_for_a_version_is_held_to_both_sides() -> None:
    asking = {
        p.stem for p in Path(next(iter(rules.__path__))).glob("*.py") if re.search(r"\.before\(\"", p.read_text(encoding="utf-8"))
    }
    missing = sorted(name for name in asking if len([p for p in PINNED if _rule(p) == name]) < 2)
    assert not missing, "write fixtures/lint/pinned/<rule>.<library>-<version>.py for the last version before, and the first after"


def test_a_class_that_moved_is_imported_from_where_it_is() -> None:
    path = FIXTURES / "pinned" / "removed_api.trl-1.12.0.py"
    fixed = rewrite.repair(str(path), path.read_bytes(), Pipeline(Settings()), unsafe=False).data.decode()
    assert "from trl.experimental.orpo import ORPOConfig\nfrom trl.experimental.orpo import ORPOTrainer\n" in fixed
    assert "from trl import ORPO" not in fixed


def test_of_a_commit_nothing_is_certain(tmp_path: Path) -> None:
    commit = "transformers @ git+https://github.com/huggingface/transformers.git@0dcb46e7a4a9e587ba84ff35778ab4233a184c11"
    text = f'# /// script\n# dependencies = ["{commit}"]\n# ///\nfrom peft import LoraConfig\nfrom transformers import TrainingArguments\n\n'
    for name in ("evaluation_strategy", "eval_strategy"):
        found = lint_bytes(tmp_path / "train.py", f'{text}settings = TrainingArguments("runs", {name}="epoch")\n'.encode())
        assert {d.severity.value for d in found} <= {"info"}, name


@pytest.mark.parametrize(
    ("install", "codes"),
    [
        ("", ["LD440"]),
        ("!pip install -q transformers", []),
        ("!pip install 'transformers>=4.40'", []),
        ("!pip install transformers==4.30", ["LD440"]),
    ],
)
def test_a_notebook_that_installs_a_library_need_not_have_the_one_of_the_repository(tmp_path: Path, install: str, codes: list[str]) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "requirements.txt").write_text("transformers==4.40.0\n")
    text = "from peft import LoraConfig\nfrom transformers import TrainingArguments\nTrainingArguments('runs', eval_strategy='epoch')"
    cells = [{"cell_type": "code", "metadata": {}, "outputs": [], "source": source} for source in (install, text)]
    found = lint_bytes(tmp_path / "train.ipynb", json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}).encode())
    assert [d.code for d in found if d.severity is Severity.ERROR] == codes


@pytest.mark.parametrize(("home", "codes"), [("", ["LD440"]), ("peft", []), ("src/peft", [])])
def test_what_a_librarys_own_repository_has_is_what_stands_there(tmp_path: Path, home: str, codes: list[str]) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / home).mkdir(parents=True, exist_ok=True)
    (tmp_path / home / "__init__.py").touch()
    text = b"from peft import prepare_model_for_int8_training\n\nmodel = prepare_model_for_int8_training(load())\n"
    assert [d.code for d in lint_bytes(tmp_path / "examples" / "train.py", text)] == codes


@pytest.mark.parametrize(("nearer", "codes"), [("torch", ["LD440"]), ("transformers", []), ("transformers>=4.38", [])])
def test_a_part_with_requirements_of_its_own_need_not_have_what_is_pinned_above(tmp_path: Path, nearer: str, codes: list[str]) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "requirements.txt").write_text("transformers==4.40.0\n")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "requirements.txt").write_text(f"{nearer}\n")
    text = b"from peft import LoraConfig\nfrom transformers import TrainingArguments\nTrainingArguments('runs', eval_strategy='epoch')\n"
    assert [d.code for d in lint_bytes(tmp_path / "part" / "train.py", text)] == codes
