"""`loradoctor lint` from the outside."""

import json

import pytest

from tests.cli.conftest import BROKEN, CLEAN

DROPPED_MERGE = """\
from peft import PeftModel

model = PeftModel.from_pretrained(base, path)
model.merge_and_unload()
model.save_pretrained(out)
"""


def test_a_clean_file(loradoctor):
    result = loradoctor("lint", "fine.py")
    assert (result.code, result.out, result.err) == (0, "no findings in 1 file\n", "")


def test_a_finding_exits_with_1(loradoctor):
    result = loradoctor("lint", "broken.py")
    assert (result.code, result.err) == (1, "")
    assert result.out.startswith("error[LD001]: ")
    assert " --> broken.py:" in result.out
    assert result.out.endswith("\n\n1 error in 1 file\n")


def test_the_default_path_is_the_working_directory(loradoctor):
    assert loradoctor("lint").out == loradoctor("lint", "broken.py", "fine.py").out.replace(" in 1 file", " in 2 files")


def test_json_is_one_object_and_nothing_else(loradoctor):
    result = loradoctor("lint", "--format", "json", ".")
    document = json.loads(result.out)
    assert (result.code, result.err) == (1, "")
    assert document["summary"] == {"error": 1, "warning": 0, "info": 0, "suppressed": 0}
    assert [s["path"] for s in document["subjects"]] == ["fine.py"]


@pytest.mark.parametrize("form", ["json", "sarif"])
def test_machine_formats_exit_like_the_text(loradoctor, form):
    assert loradoctor("lint", "--format", form, "fine.py").code == 0


def test_github_annotates(loradoctor):
    result = loradoctor("lint", "--format", "github", ".")
    assert (result.code, result.out[:21], result.out.count("\n")) == (1, "::error file=broken.p", 1)


def test_standard_input(loradoctor):
    result = loradoctor("lint", "-", stdin=CLEAN.encode())
    assert (result.code, result.out) == (0, "no findings in 1 file\n")


def test_standard_input_has_the_name_it_is_given_and_shows_its_lines(loradoctor):
    result = loradoctor("lint", "-", "--stdin-filename", "src/train.py", stdin=BROKEN.encode())
    assert result.code == 1
    assert " --> src/train.py:" in result.out
    assert "\n2 | model = (\n" in result.out


def test_standard_input_can_be_a_notebook(loradoctor):
    notebook = {"cells": [{"cell_type": "code", "source": BROKEN}], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}
    result = loradoctor("lint", "-", "--stdin-filename", "x.ipynb", "--format", "json", stdin=json.dumps(notebook).encode())
    (found,) = json.loads(result.out)["diagnostics"]
    assert (found["code"], found["location"]["cell"]) == ("LD001", 0)


def test_an_ignored_rule_is_silent(loradoctor):
    assert loradoctor("lint", "--ignore", "LD103,unparsable-source", "broken.py").code == 0


def test_a_selected_rule_is_the_only_one(loradoctor):
    result = loradoctor("lint", "--select", "LD101", "--format", "json", "fine.py")
    assert (result.code, json.loads(result.out)["diagnostics"]) == (0, [])


def test_fail_on_decides_the_exit_code_not_what_is_shown(loradoctor, project):
    (project / "unused.py").write_text(CLEAN + "x = 1  # loradoctor: ignore[LD101] not needed\n")
    lax, strict = loradoctor("lint", "unused.py", "--fail-on", "error"), loradoctor("lint", "unused.py")
    assert (lax.code, strict.code) == (0, 1)
    assert lax.out == strict.out
    assert "warning[LD003]" in lax.out


def test_severity_decides_what_is_shown_not_the_exit_code(loradoctor, project):
    (project / "unused.py").write_text(CLEAN + "x = 1  # loradoctor: ignore[LD101] not needed\n")
    result = loradoctor("lint", "unused.py", "--severity", "error")
    assert result.code == 1
    assert result.out == "no findings in 1 file (1 of lower severity hidden, `--verbose` shows them)\n"


def test_the_report_can_go_to_a_file(loradoctor, project):
    shown = loradoctor("lint", "broken.py")
    written = loradoctor("lint", "broken.py", "--output", "report.txt")
    assert (written.code, written.out) == (1, "")
    assert (project / "report.txt").read_text() == shown.out


def test_settings_come_from_the_project(loradoctor, project):
    (project / "pyproject.toml").write_text('[tool.loradoctor]\nignore = ["LD001"]\n')
    assert loradoctor("lint", ".").code == 0
    assert loradoctor("lint", "--isolated", ".").code == 1


def test_settings_can_come_from_elsewhere(loradoctor, project):
    (project / "other.toml").write_text('[tool.loradoctor]\nignore = ["LD001"]\n')
    assert loradoctor("lint", "--config", "other.toml", ".").code == 0


def test_diff_prints_a_patch_and_changes_nothing(loradoctor, project):
    (project / "merge.py").write_text(DROPPED_MERGE)
    result = loradoctor("lint", "--diff", "merge.py")
    assert result.code == 1
    assert result.out.startswith("--- ")
    assert "+model = model.merge_and_unload()\n" in result.out
    assert (project / "merge.py").read_text() == DROPPED_MERGE


def test_fix_repairs_and_reports_what_is_left(loradoctor, project):
    (project / "merge.py").write_text(DROPPED_MERGE)
    result = loradoctor("lint", "--fix", "merge.py")
    assert (result.code, result.out, result.err) == (0, "no findings in 1 file\n", "fixed merge.py\n")
    assert "\nmodel = model.merge_and_unload()\n" in (project / "merge.py").read_text()


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["lint", "-", "fine.py"], "`-` stands for standard input and cannot be combined with other paths"),
        (["lint", "--stdin-filename", "x.py", "."], "`--stdin-filename` needs `-` as the path"),
        (["lint", "--fix", "-"], "standard input cannot be fixed; give the path of a file"),
        (["lint", "--diff", "--format", "json", "."], "`--diff` prints a patch; it has no other `--format`"),
        (["lint", "--select", "LD9999", "."], "`select`: no rule is called `LD9999`; `loradoctor rules` lists them all"),
        (["lint", "--config", "gone.toml", "."], "gone.toml: cannot be read: No such file or directory"),
        (["lint", "--output", "no/such/dir/x", "."], "cannot write no/such/dir/x: No such file or directory"),
        (["explain", "nope\x1b[2J"], "no rule is called `nope\\x1b[2J`; `loradoctor rules` lists them all"),
        (["check", "--no-base", "gone"], "`gone` does not exist"),
    ],
)
def test_wrong_usage_is_one_line_on_standard_error(loradoctor, argv, complaint):
    result = loradoctor(*argv)
    assert (result.code, result.out, result.err) == (2, "", f"loradoctor: error: {complaint}\n")


@pytest.mark.parametrize("argv", [[], ["lint", "--format", "xml"], ["check"], ["check", "x", "--base", "y", "--no-base"], ["nope"]])
def test_arguments_that_cannot_be_parsed_exit_with_2(loradoctor, argv):
    result = loradoctor(*argv)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("usage: loradoctor")
