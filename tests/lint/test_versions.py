"""Which versions a project's own files ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from loradoctor.lint.versions import for_file, pinned


@pytest.mark.parametrize(
    ("clauses", "expected"),
    [
        ("==0.17.1", (0, 17, 1)),
        ("==0.17.*", (0, 17, 999)),
        (">=0.14", None),
        ("<0.18", (0, 17, 999)),
        ("<1.0", (0, 999)),
        ("<=0.15.2", (0, 15, 2)),
        (">=0.14,<0.18", (0, 17, 999)),
        ("~=0.17", None),
        ("~=0.17.0", (0, 17, 999)),
        ("!=0.16", None),
    ],
)
def test_a_pin_is_the_newest_version_it_allows(clauses: str, expected: tuple[int, ...] | None) -> None:
    assert pinned(clauses) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("requirements.txt", "torch\npeft[extra]==0.11.1  # pinned\ntransformers>=4.40\n"),
        ("requirements-train.txt", "peft == 0.11.1 ; python_version > '3.8'\n"),
        ("environment.yml", "dependencies:\n  - python=3.11\n  - pip:\n    - peft==0.11.1\n"),
        ("pyproject.toml", '[project]\ndependencies = ["peft==0.11.1", "torch"]\n'),
        ("pyproject.toml", '[tool.poetry.dependencies]\npeft = "0.11.1"\ntorch = "^2.0"\n'),
        ("uv.lock", '[[package]]\nname = "peft"\nversion = "0.11.1"\n'),
    ],
)
def test_pins_are_read_where_projects_keep_them(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / name).write_text(text)
    script = tmp_path / "src" / "train.py"
    script.parent.mkdir()
    assert for_file(str(script)) == {"peft": (0, 11, 1)}


def test_the_nearest_file_wins_and_settings_win_over_all(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "requirements.txt").write_text("peft==0.4.0\ntrl==0.7\n")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "requirements.txt").write_text("peft==0.20.0\n")
    script = str(tmp_path / "new" / "train.py")
    assert for_file(script) == {"peft": (0, 20, 0), "trl": (0, 7)}
    assert for_file(script, {"peft": "0.5"})["peft"] == (0, 5)


def test_files_above_the_repository_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("peft==0.4.0\n")
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    assert for_file(str(tmp_path / "repo" / "train.py")) == {}


def test_broken_files_pin_nothing(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "pyproject.toml").write_text("[project\n")
    (tmp_path / "requirements.txt").write_bytes(b"\xff\xfe==\n==1\n")
    assert for_file(str(tmp_path / "train.py")) == {}
