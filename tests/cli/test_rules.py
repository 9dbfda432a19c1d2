"""`loradoctor explain` and `loradoctor rules`."""

import json
import sys

import pytest

from loradoctor.registry import all_rules

PAGE = """\
# LD004 unreadable-file (error)

A file cannot be read.

It is missing, permission is denied, it is not text in the encoding it declares, or it is something other than a file.
Nothing in it was checked.
"""


@pytest.mark.parametrize("wanted", ["LD004", "ld004", "unreadable-file"])
def test_a_rule_is_explained_in_markdown(loradoctor, wanted):
    result = loradoctor("explain", wanted)
    assert (result.code, result.out, result.err) == (0, PAGE, "")


def test_several_rules_are_explained_one_after_the_other(loradoctor):
    assert loradoctor("explain", "LD004", "LD004").out == f"{PAGE}\n{PAGE}"


def test_every_rule_can_be_explained(loradoctor):
    result = loradoctor("explain", *(r.code for r in all_rules()))
    assert result.code == 0
    assert all(f"# {r.code} {r.name} ({r.severity})" in result.out for r in all_rules())


def test_the_table_has_a_line_for_every_rule(loradoctor):
    lines = loradoctor("rules").out.splitlines()
    assert lines[0].split() == ["code", "name", "severity", "what", "it", "finds"]
    assert [line.split()[:3] for line in lines[1:]] == [[r.code, r.name, str(r.severity)] for r in all_rules()]


def test_the_table_as_data(loradoctor):
    records = json.loads(loradoctor("rules", "--format", "json").out)
    assert [r["code"] for r in records] == [r.code for r in all_rules()]
    assert {tuple(r) for r in records} == {("code", "name", "severity", "family", "summary", "refs")}
    assert next(r for r in records if r["code"] == "LD606")["refs"] == ["K7", "K9", "K12"]


@pytest.mark.parametrize("argv", [["explain", "LD101"], ["rules"]])
def test_a_terminal_gets_it_rendered(loradoctor, monkeypatch, argv):
    monkeypatch.setattr("loradoctor.cli._decorated", lambda: True)
    result = loradoctor(*argv)
    assert result.code == 0
    assert "adapter-on-adapter" in result.out
    assert "```" not in result.out
    assert "rich" in sys.modules
