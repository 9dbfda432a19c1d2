"""Fixes: until nothing changes, never harmful, written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from loradoctor.config import Settings
from loradoctor.diagnostic import Severity
from loradoctor.lint import files, rewrite
from loradoctor.lint import pipeline as pipelines
from loradoctor.lint.rewrite import replace_file, unified_diff
from tests.lint.stand_ins import analysed, pipeline, replacing

BUG = """import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("gpt2"), "adapter")
model.merge_and_unload()  # the adapter is small
model.save_pretrained("merged")
"""
FIXED = BUG.replace("model.merge", "model = model.merge")


def repaired(text: str, *rules: object, unsafe: bool = False) -> tuple[str, int]:
    outcome = rewrite.repair("a.py", text.encode(), pipeline(*rules), unsafe=unsafe)  # type: ignore[arg-type]
    return outcome.data.decode(), len(outcome.refused)


def test_every_fix_is_applied() -> None:
    assert repaired("a\nb\na\n", replacing("LD901", "a", "x"), replacing("LD902", "b", "y")) == ("x\ny\nx\n", 0)


def test_a_fix_that_another_makes_possible_is_applied() -> None:
    assert repaired("a\n", replacing("LD901", "a", "b"), replacing("LD902", "b", "c")) == ("c\n", 0)


def test_fixes_that_overlap_are_applied_one_after_the_other() -> None:
    assert repaired("f(a)\n", replacing("LD901", r"f\((.)\)", r"g(\1)"), replacing("LD902", "a", "b")) == ("g(b)\n", 0)


def test_fixes_that_undo_each_other_end() -> None:
    text, _ = repaired("a\n", replacing("LD901", "a", "b"), replacing("LD902", "b", "a"))
    assert text in ("a\n", "b\n")


def test_an_unsafe_fix_is_applied_only_when_asked_for() -> None:
    rule = replacing("LD901", "a", "b", safe=False)
    assert repaired("a\n", rule) == ("a\n", 0)
    assert repaired("a\n", rule, unsafe=True) == ("b\n", 0)


@pytest.mark.parametrize(
    ("text", "pattern", "by"),
    [("a\n", "a", "a ("), ("f(  # why\n  a)\n", r"f\([^)]*\)", "g()"), ("a\n", "a", "a;a")],
    ids=["does not parse", "loses a comment", "repairs nothing"],
)
def test_a_fix_that_would_harm_is_refused_and_the_others_are_not(text: str, pattern: str, by: str) -> None:
    fixed, refused = repaired(text + "b\n", replacing("LD901", pattern, by), replacing("LD902", "b", "c"))
    assert (fixed, refused) == (text + "c\n", 1)


def test_a_byte_order_mark_and_newlines_stay() -> None:
    data = b"\xef\xbb\xbfa = '\xc3\x9f'\r\nb\r\n"
    outcome = rewrite.repair("a.py", data, pipeline(replacing("LD901", "b", "c")), unsafe=False)
    assert outcome.data == data.replace(b"b\r\n", b"c\r\n")


def test_a_fix_that_does_not_fit_the_encoding_is_refused() -> None:
    data = "# coding: latin-1\na = 'ß'\n".encode("latin-1")
    outcome = rewrite.repair("a.py", data, pipeline(replacing("LD901", "a(?= =)", "größe")), unsafe=False)
    assert (outcome.data, len(outcome.refused)) == (data, 1)


def test_a_notebook_changes_in_one_line() -> None:
    cell = {"cell_type": "code", "source": ["x = 1\n", "%time a\n", "ß"], "outputs": []}
    data = json.dumps({"cells": [{"cell_type": "markdown", "source": "a"}, cell]}, indent=3, ensure_ascii=False).encode() + b"\n"
    outcome = rewrite.repair("n.ipynb", data, pipeline(replacing("LD901", r"\ba\b", "bb")), unsafe=False)
    assert outcome.data == data.replace(b"%time a", b"%time bb")


def test_a_notebook_with_a_broken_cell_is_fixed_elsewhere() -> None:
    cells = [{"cell_type": "code", "source": s} for s in ("x = (", "a")]
    data = json.dumps({"cells": cells}).encode()
    outcome = rewrite.repair("n.ipynb", data, pipeline(replacing("LD901", r"\ba\b", "bb")), unsafe=False)
    assert outcome.data == data.replace(b'"a"', b'"bb"')
    assert [d.code for d in outcome.report.diagnostics] == ["LD001"]


# -- on disk


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.py"
    path.write_text(BUG)
    return path


def fix(*paths: str, diff: bool = False) -> rewrite.FixOutcome:
    return rewrite.fix(paths or ("a.py",), Settings(), unsafe=False, diff=diff)


def test_a_fixed_file_is_written_and_reported_as_it_now_is(file: Path) -> None:
    outcome = fix()
    assert file.read_text() == FIXED
    assert outcome.changed == ("a.py",)
    assert outcome.report.at_least(Severity.WARNING) == ()
    assert [s.path for s in outcome.report.subjects] == ["a.py"]
    assert [p.name for p in file.parent.iterdir()] == ["a.py"], "no temporary file stays"


def test_a_second_run_changes_nothing(file: Path) -> None:
    fix()
    assert fix() == rewrite.FixOutcome(fix().report)


@pytest.mark.parametrize("mode", [0o644, 0o755, 0o600])
def test_the_mode_of_the_file_is_kept(file: Path, mode: int) -> None:
    file.chmod(mode)
    fix()
    assert stat.S_IMODE(file.stat().st_mode) == mode


def test_a_diff_writes_nothing_and_reports_what_is_there(file: Path) -> None:
    outcome = fix(diff=True)
    assert file.read_text() == BUG
    assert outcome.changed == ()
    assert [d.code for d in outcome.report.at_least(Severity.WARNING)] == ["LD301"]
    assert outcome.diff.startswith("--- a/a.py\n+++ b/a.py\n@@ ")


@pytest.mark.parametrize("name", ["a.py", "with space.py", "größe.py", 'quo"te.py', "tab\there.py", "sub/a.py"])
@pytest.mark.parametrize("ending", ["\n", ""], ids=["newline", "no newline at the end"])
def test_a_diff_is_a_patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ending: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(BUG.rstrip("\n") + ending)
    patch = fix(name, diff=True).diff
    (tmp_path / "p.patch").write_text(patch)
    shown = subprocess.run(["git", "apply", "--whitespace=nowarn", "p.patch"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr + patch
    assert path.read_text() == FIXED.rstrip("\n") + ending


def test_a_diff_keeps_the_newlines_of_windows() -> None:
    assert unified_diff("a.py", b"x\r\ny\r\n", b"x\r\nz\r\n").endswith(" x\r\n-y\r\n+z\r\n")


def test_what_a_link_points_to_is_replaced_and_the_link_stays(file: Path) -> None:
    target = file.parent / "elsewhere" / "target"
    target.parent.mkdir()
    shutil.move(file, target)
    file.symlink_to(Path("elsewhere", "target"))
    outcome = fix()
    assert (file.is_symlink(), target.read_text(), outcome.changed) == (True, FIXED, ("a.py",))
    assert outcome.report.at_least(Severity.WARNING) == ()


def test_a_file_under_two_names_is_fixed_once_and_reported_as_it_now_is(file: Path) -> None:
    Path("b.py").symlink_to("a.py")
    outcome = fix("b.py", "a.py")
    assert (outcome.changed, outcome.failed) == (("a.py",), ())
    assert outcome.report.at_least(Severity.WARNING) == ()
    assert file.read_text() == FIXED


def test_a_diff_of_a_link_is_of_what_it_points_to(file: Path) -> None:
    Path("sub").mkdir()
    Path("sub/b.py").symlink_to(Path("..", "a.py"))
    assert fix("sub/b.py", diff=True).diff.startswith("--- a/a.py\n+++ b/a.py\n")


def test_another_hard_link_keeps_what_it_has(file: Path) -> None:
    file.with_name("b.py").hardlink_to(file)
    fix()
    assert (file.read_text(), Path("b.py").read_text()) == (FIXED, BUG)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")
def test_the_owner_of_the_file_is_kept(file: Path) -> None:
    os.chown(file, 1234, 4321)
    file.chmod(0o6755)
    fix()
    status = file.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 4321, 0o6755)


def test_an_owner_that_may_not_be_kept_is_not_insisted_on(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    made = os.stat
    monkeypatch.setattr(os, "chown", refuse)
    monkeypatch.setattr(os, "stat", lambda path, **more: _owned(made(path, **more), ".loradoctor-" in str(path)))
    assert replace_file(str(file), BUG.encode(), FIXED.encode()) == ""
    assert file.read_text() == FIXED


def _owned(status: os.stat_result, temporary: bool) -> os.stat_result:
    return os.stat_result((*status[:4], status.st_uid + temporary, *status[5:]))


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("fsync", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "no space left on device"),
        ("fsync", OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "disk quota exceeded"),
        ("fsync", OSError(errno.EIO, os.strerror(errno.EIO)), "input/output error"),
        ("chmod", PermissionError(errno.EPERM, "x"), "permission is denied"),
        ("replace", OSError(errno.EXDEV, os.strerror(errno.EXDEV)), "invalid cross-device link"),
        ("replace", OSError(errno.ETXTBSY, os.strerror(errno.ETXTBSY)), "text file busy"),
    ],
)
def test_a_disk_that_refuses_is_told_and_the_file_left(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: OSError, reason: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, name, refuse)
    outcome = fix()
    assert [(d.code, d.message) for d in outcome.failed] == [("LD002", f"the fixes were not written: {reason}")]
    assert (file.read_text(), [p.name for p in file.parent.iterdir()]) == (BUG, ["a.py"])
    assert [d.code for d in outcome.report.at_least(Severity.WARNING)] == ["LD301"], "the report is about what is there"


def test_a_directory_that_takes_no_file_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    assert [d.message for d in fix().failed] == ["the fixes were not written: permission is denied"]
    assert file.read_text() == BUG


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_run_that_is_killed_leaves_the_old_file_whole(file: Path, moment: str) -> None:
    script = (
        "import os, signal, sys\n"
        f"os.{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from loradoctor.lint.rewrite import replace_file\n"
        "replace_file('a.py', open('a.py', 'rb').read(), b'x')\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -9
    assert file.read_text() == BUG
    assert all(p.name == "a.py" or p.name.startswith(".loradoctor-") for p in file.parent.iterdir())
    assert files.find(["."], Settings()).files == ("a.py",), "what it leaves is not taken for a program"


def test_an_interrupted_run_leaves_no_temporary_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fix()
    assert (file.read_text(), [p.name for p in file.parent.iterdir()]) == (BUG, ["a.py"])


def test_one_file_that_cannot_be_written_does_not_keep_the_others_from_it(file: Path) -> None:
    Path("b.py").write_text(BUG)
    file.chmod(0o444)
    outcome = fix(".")
    assert (outcome.changed, [d.location.path for d in outcome.failed]) == (("b.py",), ["a.py"])
    assert [(d.location.path, d.code) for d in outcome.report.at_least(Severity.WARNING)] == [("a.py", "LD301")]


def test_a_file_that_vanishes_after_it_was_linted_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = rewrite._once
    monkeypatch.setattr(rewrite, "_once", lambda paths: (file.unlink(), real(paths))[1])
    assert [d.message for d in fix().failed] == ["the fixes were not written: there is no such file or directory"]


def test_a_file_that_somebody_else_repaired_meanwhile_is_reported_as_it_is(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = rewrite._once
    monkeypatch.setattr(rewrite, "_once", lambda paths: (file.write_text(FIXED), real(paths))[1])
    outcome = fix()
    assert (outcome.changed, outcome.report.at_least(Severity.WARNING)) == ((), ())


def test_a_read_only_file_is_left_and_told(file: Path) -> None:
    file.chmod(0o444)
    assert [d.message for d in fix().failed] == ["the fixes were not written: it is read-only"]
    assert file.read_text() == BUG


def test_a_file_that_changed_meanwhile_is_left_and_told(file: Path) -> None:
    file.write_text("another editor was here\n")
    assert replace_file(str(file), BUG.encode(), b"x") == "it changed while it was being fixed"
    assert file.read_text() == "another editor was here\n"
    assert [p.name for p in file.parent.iterdir()] == ["a.py"]


def test_a_file_that_vanished_meanwhile_is_told(file: Path) -> None:
    file.unlink()
    assert replace_file(str(file), b"", b"x") == "there is no such file or directory"


def test_a_refused_fix_is_told_with_its_finding(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "_analyse", lambda source, **_: analysed(source))
    monkeypatch.setattr(pipelines.Pipeline, "_rules", lambda _: (replacing("LD901", "torch", "("),))
    outcome = fix()
    assert file.read_text() == BUG
    helps = [d.help for d in outcome.report.diagnostics]
    assert helps == ["its fix was not applied: the result would not parse, would lose a comment or would still have the bug"]


@pytest.mark.skipif(shutil.which("patch") is None, reason="there is no `patch`")
@pytest.mark.parametrize("name", ["a.py", "with space.py", "größe.py", "sub/a.py", "n.ipynb", "d.md"])
@pytest.mark.parametrize("ending", ["\n", ""], ids=["newline", "no newline at the end"])
@pytest.mark.parametrize("tool", [["patch", "-s", "-p1", "-i"], ["git", "apply", "--whitespace=nowarn"]], ids=["patch", "git"])
def test_programs_that_apply_patches_make_of_it_what_a_fix_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ending: str, tool: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    text = BUG + 'größe = "\f ß"'
    if name.endswith(".ipynb"):
        text = json.dumps({"cells": [{"cell_type": "code", "source": text.splitlines(keepends=True)}]}, indent=1, ensure_ascii=False)
    elif name.endswith(".md"):
        text = f"# Größe\n\n```python\n{text}\n```"
    path.write_text(text + ending)
    (tmp_path / "p.patch").write_text(fix(name, diff=True).diff)
    assert path.read_text() == text + ending
    fix(name)
    fixed = path.read_bytes()
    path.write_text(text + ending)
    shown = subprocess.run([*tool, "p.patch"], capture_output=True, text=True, check=False)
    assert (shown.returncode, path.read_bytes() == fixed) == (0, True), shown.stderr + shown.stdout
