"""What a run remembers for the next one, and when it does not believe it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loradoctor.__main__ import main
from loradoctor.config import Settings
from loradoctor.diagnostic import Report
from loradoctor.lint import cache, files
from loradoctor.lint.pipeline import Pipeline
from loradoctor.lint.run import lint

BUG = "from peft import PeftModel\n\nmodel = PeftModel.from_pretrained(base, 'a')\nmodel.disable_adapter()\n"
FINE = "from peft import PeftModel\n\nmodel = PeftModel.from_pretrained(base, 'a')\nmodel.enable_adapter()\n"
HELPER = "from peft import LoraConfig, get_peft_model\n\n\ndef build(base):\n    return get_peft_model(base, LoraConfig({}))\n"
USER = """\
from transformers import AutoModelForCausalLM
from helper import build

model = build(AutoModelForCausalLM.from_pretrained("gpt2"))
model.disable_adapter()
"""


def write(path: Path, text: str, age: float = 60) -> Path:
    """A file that was last written ``age`` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    then = time.time() - age
    os.utime(path, (then, then))
    os.utime(path.parent, (then, then))
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    return tmp_path


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are analysed, in order."""
    seen: list[str] = []
    real = Pipeline.examined

    def watched(self: Pipeline, path: str, data: bytes) -> object:
        seen.append(path)
        return real(self, path, data)

    monkeypatch.setattr(Pipeline, "examined", watched)
    return seen


def run(settings: Settings | None = None, *paths: str) -> Report:
    return lint(paths or ["."], settings or Settings(), cached=True)


def test_the_second_run_finds_the_same_and_analyses_nothing(here: Path, examined: list[str]) -> None:
    write(here / "a.py", BUG)
    write(here / "plain.py", "print(1)\n")
    first = run()
    assert examined == ["a.py"]
    assert [d.code for d in first.diagnostics] == ["LD208"]
    assert run() == first
    assert examined == ["a.py"]


def test_a_run_with_nothing_new_reads_no_source(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here / "a.py", BUG)
    write(here / "plain.py", "print(1)\n")
    run()
    read: list[str] = []
    real = files.read
    monkeypatch.setattr(files, "read", lambda path: (read.append(path), real(path))[1])
    run()
    assert [Path(path).suffix for path in read] == [".json"]


def test_a_changed_file_is_analysed_again(here: Path, examined: list[str]) -> None:
    write(here / "a.py", BUG)
    write(here / "pkg" / "b.py", BUG)
    run()
    write(here / "a.py", FINE, age=30)
    assert [d.location.path for d in run().diagnostics] == ["pkg/b.py"]
    assert examined == ["a.py", "pkg/b.py", "a.py"]


def test_a_touched_file_is_not(here: Path, examined: list[str]) -> None:
    path = write(here / "a.py", BUG)
    run()
    os.utime(path, (time.time() - 10, time.time() - 10))
    assert [d.code for d in run().diagnostics] == ["LD208"]
    assert examined == ["a.py"]


def test_a_file_that_becomes_relevant_is_seen(here: Path) -> None:
    write(here / "a.py", "print(1)\n")
    assert run().diagnostics == ()
    write(here / "a.py", BUG, age=30)
    assert [d.code for d in run().diagnostics] == ["LD208"]


@pytest.mark.parametrize("age", [0.2, 1])
def test_a_file_of_this_moment_is_compared_by_content(here: Path, age: float) -> None:
    path = write(here / "a.py", BUG, age=age)
    stat = path.stat()
    run()
    path.write_text(FINE.replace("enable_adapter", "enable__dapter").ljust(len(BUG), "#")[: len(BUG)])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert run().diagnostics == ()


def test_a_change_in_a_file_that_is_imported_counts(here: Path, examined: list[str]) -> None:
    write(here / "helper.py", HELPER.format("task_type='CAUSAL_LM'"))
    write(here / "use.py", USER)
    first = run()
    assert [d.location.path for d in first.diagnostics if d.code == "LD208"] == ["use.py"]
    write(here / "helper.py", "def build(base):\n    return base.unknown()\n# peft\n", age=30)
    run()
    assert examined.count("use.py") == 2


def test_a_file_that_appears_where_an_import_looked_counts(here: Path, examined: list[str]) -> None:
    write(here / "use.py", USER)
    run()
    write(here / "helper.py", HELPER.format("task_type='CAUSAL_LM'"), age=30)
    run()
    assert examined.count("use.py") == 2


def test_what_one_file_sees_anew_is_not_taken_for_old_by_another(here: Path, examined: list[str]) -> None:
    write(here / "helper.py", HELPER.format("task_type='CAUSAL_LM'"))
    for name in ("one.py", "two.py"):
        write(here / name, USER)
    run()
    write(here / "helper.py", HELPER.format("task_type='SEQ_CLS'"), age=30)
    run(None, "one.py")
    run(None, "two.py")
    assert examined.count("two.py") == 2


def test_a_new_pin_counts(here: Path, examined: list[str]) -> None:
    write(here / "src" / "a.py", BUG)
    run()
    write(here / "requirements.txt", "peft==0.10.0\n", age=30)
    run()
    assert examined == ["src/a.py", "src/a.py"]


def test_a_new_version_of_a_library_in_the_project_counts(here: Path, examined: list[str]) -> None:
    write(here / "src" / "peft" / "__init__.py", '__version__ = "0.17.0"\n')
    write(here / "a.py", BUG)
    run()
    write(here / "src" / "peft" / "__init__.py", '__version__ = "0.18.0"\n', age=30)
    run()
    assert examined.count("a.py") == 2


@pytest.mark.parametrize("settings", [Settings(select=frozenset({"LD101"})), Settings(target_versions={"peft": "0.10"})])
def test_another_question_has_its_own_answers(here: Path, settings: Settings, examined: list[str]) -> None:
    write(here / "a.py", BUG)
    run()
    run(settings)
    assert examined == ["a.py", "a.py"]
    run()
    assert examined == ["a.py", "a.py"]


def test_only_so_many_questions_are_remembered(here: Path) -> None:
    write(here / "a.py", BUG)
    for code in range(101, 101 + cache.KEPT + 2):
        run(Settings(select=frozenset({f"LD{code}"})))
    assert len(list((here / cache.DIRECTORY).glob("lint-*.json"))) == cache.KEPT


def _spoil(text: str) -> list[str]:
    stored = json.loads(text)
    entry = stored["entries"]["a.py"]
    other = json.loads(text)
    other["entries"]["a.py"][4][1][0][4][0] = "/etc/passwd"
    return [
        "",
        "[]",
        "{",
        "[" * 10_000,
        "\0\xff",
        json.dumps({"entries": [], "marks": {}}),
        json.dumps({"entries": {"a.py": 3}, "marks": 4}),
        json.dumps({**stored, "entries": {"a.py": [None] * 6}}),
        json.dumps({**stored, "entries": {"a.py": [*entry[:4], [[], [[1]], "x"], entry[5]]}}),
        json.dumps({**stored, "entries": {"a.py": [*entry[:4], {}, entry[5]]}}),
        json.dumps({**stored, "marks": {}}),
        json.dumps({**stored, "marks": {place: [1] for place in stored["marks"]}}),
        json.dumps(other),
    ]


@pytest.mark.parametrize("number", range(13))
def test_a_cache_that_is_not_as_written_is_as_good_as_none(here: Path, number: int) -> None:
    write(here / "a.py", BUG)
    first = run()
    (stored,) = (here / cache.DIRECTORY).glob("lint-*.json")
    stored.write_text(_spoil(stored.read_text())[number])
    assert run() == first


def test_it_marks_its_directory(here: Path) -> None:
    write(here / "a.py", BUG)
    run()
    assert (here / cache.DIRECTORY / ".gitignore").read_text() == "*\n"
    assert (here / cache.DIRECTORY / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")


def test_it_stands_beside_the_settings(here: Path) -> None:
    write(here / "pkg" / "a.py", BUG)
    run(Settings(root=str(here)), "pkg/a.py")
    assert (here / cache.DIRECTORY).is_dir()


def test_a_directory_that_cannot_be_written_is_left_alone(here: Path) -> None:
    write(here / "a.py", BUG)
    (here / cache.DIRECTORY).write_text("in the way")
    assert [d.code for d in run().diagnostics] == ["LD208"]
    assert (here / cache.DIRECTORY).read_text() == "in the way"


def test_no_half_of_it_is_left_behind(here: Path) -> None:
    write(here / "a.py", BUG)
    run()
    assert {p.suffix for p in (here / cache.DIRECTORY).iterdir()} == {"", ".TAG", ".json"}


def test_the_command_line_uses_it_unless_told_not_to(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "a.py", BUG)
    assert main(["lint", "--isolated", "--no-cache", "."]) == 1
    assert not (here / cache.DIRECTORY).exists()
    assert main(["lint", "--isolated", "."]) == 1
    assert (here / cache.DIRECTORY).is_dir()


def test_the_settings_can_switch_it_off(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "a.py", BUG)
    write(here / "pyproject.toml", "[tool.loradoctor]\ncache = false\n")
    assert main(["lint", "."]) == 1
    assert not (here / cache.DIRECTORY).exists()


def test_a_warm_run_imports_no_rule_and_no_parser(here: Path) -> None:
    write(here / "a.py", BUG)
    main(["lint", "--isolated", "--output", "first.txt", "."])
    code = (
        "import sys; from loradoctor.__main__ import main; main(['lint', '--isolated', '--output', 'second.txt', '.']);"
        "print(sorted(m for m in sys.modules if m == 'libcst' or m.startswith(('loradoctor.lint.rules', 'loradoctor.lint.flow'))))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
    assert (here / "first.txt").read_text() == (here / "second.txt").read_text()
