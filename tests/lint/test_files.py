"""Which files a run reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loradoctor.config import Settings
from loradoctor.lint import files

needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")


def tree(root: Path, *paths: str) -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("import peft\n")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*paths: str, **settings: object) -> tuple[str, ...]:
    return files.find(paths, Settings(**settings)).files  # type: ignore[arg-type]


def test_a_directory_gives_its_python_files_and_notebooks_in_order(here: Path) -> None:
    tree(here, "src/b.py", "src/a.ipynb", "src/sub/c.py", "src/notes.md", "src/data.json")
    assert found("src") == ("src/a.ipynb", "src/b.py", "src/sub/c.py")


@pytest.mark.parametrize(
    ("argument", "printed"), [(".", "src/a.py"), ("src/", "src/a.py"), ("./src", "src/a.py"), ("src/../src", "src/a.py")]
)
def test_paths_are_printed_as_reached(here: Path, argument: str, printed: str) -> None:
    tree(here, "src/a.py")
    assert found(argument) == (printed,)


def test_an_absolute_argument_gives_absolute_paths(here: Path) -> None:
    tree(here, "src/a.py")
    assert found(str(here / "src")) == (str(here / "src/a.py"),)


def test_a_named_file_is_taken_whatever_it_is_called_and_wherever_it_is(here: Path) -> None:
    tree(here, "script", "build/a.py", "ignored.py")
    (here / ".gitignore").write_text("ignored.py\n")
    assert found("script", "build/a.py", "ignored.py", exclude=("build",)) == ("script", "build/a.py", "ignored.py")


def test_a_file_that_is_reached_twice_is_read_once(here: Path) -> None:
    tree(here, "src/a.py")
    assert found("src/a.py", "src", "./src/a.py") == ("src/a.py",)


def test_directories_of_tools_are_left_out(here: Path) -> None:
    tree(here, *(f"{name}/a.py" for name in (".git", ".venv", "node_modules", "__pycache__", ".ipynb_checkpoints", "dist")), "a.py")
    assert found(".") == ("a.py",)


def test_exclude_is_relative_to_the_directory_of_the_settings(here: Path) -> None:
    tree(here, "a.py", "legacy/b.py", "src/legacy/c.py", "src/x_test.py")
    assert found(".", exclude=("/legacy", "*_test.py"), root=str(here)) == ("a.py", "src/legacy/c.py")
    assert found("src", exclude=("/legacy",), root=str(here / "src")) == ("src/x_test.py",)


def test_gitignore_files_hold_below_them_and_the_deepest_wins(here: Path) -> None:
    tree(here, "a.py", "out/b.py", "src/out/c.py", "src/gen_a.py", "src/keep/gen_b.py")
    (here / ".gitignore").write_text("/out\ngen_*.py\n")
    (here / "src/keep/.gitignore").write_text("!gen_b.py\n")
    assert found(".") == ("a.py", "src/keep/gen_b.py", "src/out/c.py")
    assert len(found(".", respect_gitignore=False)) == 5


def test_gitignore_files_above_the_argument_hold_up_to_the_repository(here: Path) -> None:
    tree(here, "project/src/a.py", "project/src/gen.py")
    (here / ".gitignore").write_text("a.py\n")
    (here / "project/.gitignore").write_text("src/gen.py\n")
    assert found("project/src") == ("project/src/a.py", "project/src/gen.py"), "there is no repository"
    (here / "project/.git").mkdir()
    assert found("project/src") == ("project/src/a.py",)


def test_a_loop_of_links_ends(here: Path) -> None:
    tree(here, "src/a.py")
    (here / "src/self").symlink_to(here / "src", target_is_directory=True)
    assert found("src") == ("src/a.py",)


def test_a_link_to_a_file_is_read_and_a_broken_one_is_not(here: Path) -> None:
    tree(here, "a.py")
    (here / "b.py").symlink_to("a.py")
    (here / "c.py").symlink_to("nowhere.py")
    assert found(".") == ("a.py", "b.py")


def test_what_cannot_be_read_is_told(here: Path) -> None:
    os.mkfifo(here / "pipe.py")
    outcome = files.find(["missing.py", "pipe.py", "bad\0name"], Settings())
    assert [(u.path, u.reason) for u in outcome.unreadable] == [
        ("missing.py", "there is no such file or directory"),
        ("pipe.py", "it is neither a file nor a directory"),
        ("bad\0name", "embedded null byte"),
    ]


@needs_permissions
def test_a_directory_without_permission_is_told(here: Path) -> None:
    tree(here, "src/locked/a.py")
    (here / "src/locked").chmod(0)
    try:
        outcome = files.find(["src"], Settings())
    finally:
        (here / "src/locked").chmod(0o700)
    assert [(u.path, u.reason) for u in outcome.unreadable] == [("src/locked", "permission is denied")]


def test_per_path_ignores_are_relative_to_the_settings(here: Path) -> None:
    settings = Settings(per_path_ignores={"tests/*.py": frozenset({"LD101"}), "*.ipynb": frozenset({"LD301"})}, root=str(here))
    assert files.ignored_codes("tests/a.py", settings) == {"LD101"}
    assert files.ignored_codes(str(here / "tests/a.py"), settings) == {"LD101"}
    assert files.ignored_codes("src/tests/a.py", settings) == frozenset()
    assert files.ignored_codes("src/a.ipynb", settings) == {"LD301"}


@pytest.mark.parametrize(
    "line",
    [
        b"from peft import get_peft_model",
        b"import PEFT",
        b"LoRAConfig",
        b"m.merge_and_unload()",
        b"m.load_adapter(p)",
        b"# loradoctor: ignore",
    ],
)
def test_a_relevant_word_is_seen(line: bytes) -> None:
    assert files.relevant(b"x = 1\n" + line + b"\n")


def test_other_code_is_not_relevant() -> None:
    assert not files.relevant(b"import torch\nmodel = torch.nn.Linear(2, 2)\nprint(model.explore)\n")


def test_a_tree_without_patterns_imports_nothing_heavy(here: Path) -> None:
    (here / "a.py").write_text("print(1)\n")
    code = (
        "import sys; from loradoctor.lint.run import lint; from loradoctor.config import Settings; lint(['.'], Settings());"
        "print(sorted({'libcst', 'rich', 'numpy', 'torch', 'pathspec', 'json', 'concurrent.futures'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
