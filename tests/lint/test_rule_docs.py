"""A rule's documentation is its first test: the first block has the bug, the second has nothing at all."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from loradoctor import registry
from loradoctor.config import Settings
from loradoctor.diagnostic import Finding, Location, Report, Severity
from loradoctor.lint import rewrite
from loradoctor.lint.pipeline import Pipeline
from loradoctor.rule import Rule, rule

RULES = registry.family("lint")
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)


def look(text: str, rules: tuple[Rule[object], ...] | None = None) -> Report:
    return Pipeline(Settings(), rules=rules).examine("example.py", text.encode())


@each_rule
def test_there_is_a_summary_a_reason_and_two_examples(rule: Rule[object]) -> None:
    first, _, rest = rule.doc.partition("\n")
    assert first.endswith("."), "the first line is the summary: one sentence with its full stop"
    assert len(rest.split("```")[0].split()) >= 15, "say why it matters between the summary and the first example"
    assert len(rule.examples) >= 2, "show the bug, then the same program right"


@each_rule
def test_the_first_example_gives_exactly_this_code(rule: Rule[object]) -> None:
    found = [d.code for d in look(rule.examples[0]).diagnostics if d.severity is not Severity.INFO or d.code == rule.code]
    assert found == [rule.code]


@each_rule
def test_the_second_example_gives_nothing_at_all(rule: Rule[object]) -> None:
    assert [f"{d.code}: {d.message}" for d in look(rule.examples[1]).diagnostics] == []


@each_rule
def test_a_safe_fix_turns_the_first_example_into_the_second(rule: Rule[object]) -> None:
    before = look(rule.examples[0]).diagnostics
    if not any(d.fix and d.fix.safe and d.code == rule.code for d in before):
        pytest.skip("no safe fix")
    fixed = rewrite.repair("example.py", rule.examples[0].encode(), Pipeline(Settings()), unsafe=False)
    assert fixed.data.decode() == rule.examples[1]


@each_rule
def test_messages_and_help_read_like_the_others(rule: Rule[object]) -> None:
    for found in look(rule.examples[0]).diagnostics:
        assert re.match(r"`|[a-z0-9]|\w*[A-Z]\w*[A-Z]", found.message), f"{found.message!r} begins like a sentence"
        assert not found.message.endswith("."), found.message
        assert found.help, f"{found.code} says what is wrong and not what to do"


def test_a_rule_that_crashes_is_told_and_the_others_still_run() -> None:
    @rule("LD998", Severity.ERROR)
    def crashes(_: object) -> Iterator[Finding]:
        """Crash."""
        raise KeyError("x")
        yield

    @rule("LD999", Severity.WARNING)
    def works(_: object) -> Iterator[Finding]:
        """Work."""
        yield Finding("found", Location("example.py"))

    assert [d.code for d in look("import peft\n", (crashes, works)).diagnostics] == ["LD002", "LD999"]
