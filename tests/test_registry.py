"""The rules as a whole against the decided table of codes, names, severities and evidence."""

import re

import pytest

from loradoctor.registry import FAMILIES, UnknownRule, all_rules, family, find, resolve
from tests.decided import CODES, RELEASED

FAMILY_OF_DIGIT = {"0": "tool", "1": "lint", "2": "lint", "3": "lint", "4": "lint", "5": "checkpoint", "6": "checkpoint"}
FAMILY_OF_DIGIT |= {"7": "checkpoint", "8": "merge"}


def test_what_was_released_stays():
    assert {r.code for r in all_rules()} >= RELEASED


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_a_rule_is_as_decided(rule):
    assert CODES[rule.code] == (rule.name, rule.severity.value[0].upper(), rule.refs)


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_a_rule_is_documented(rule):
    doc = rule.doc
    summary, blank, rest = (*doc.split("\n", 2), "", "")[:3]
    assert re.fullmatch(r"[A-Z`\d].+\.", summary)
    assert len(summary) <= 130
    assert not blank
    assert len(rest.split()) >= 15, "says neither why it matters nor how to repair it"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_code_tells_its_family(name):
    assert {FAMILY_OF_DIGIT[r.code[2]] for r in family(name)} == {name}


def test_codes_are_unique_and_names_within_a_family():
    assert len({r.code for r in all_rules()}) == len(all_rules())
    for name in FAMILIES:
        assert len({r.name for r in family(name)}) == len(family(name))


def test_a_name_stands_for_every_rule_that_has_it():
    assert resolve(["weights-mutating-init"]) == {"LD325", "LD807"}


@pytest.mark.parametrize("spelling", ["LD001", "ld001", "unparsable-source", "Unparsable_Source", " LD001 "])
def test_a_rule_is_found_by_code_and_by_name(spelling):
    assert find(spelling).code == "LD001"


def test_a_prefix_stands_for_its_codes():
    assert resolve(["LD00", "LD101"]) == {"LD001", "LD002", "LD003", "LD004", "LD101"}


@pytest.mark.parametrize("nonsense", ["", "LD999", "no-such-rule"])
def test_an_unknown_rule_is_an_error(nonsense):
    with pytest.raises(UnknownRule):
        resolve([nonsense])


def test_a_misspelled_name_is_recognised():
    with pytest.raises(UnknownRule, match=r"no rule is called `adapter-on-adaptor`; did you mean `adapter-on-adapter`\?"):
        find("adapter-on-adaptor")
