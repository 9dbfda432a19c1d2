"""The rules as a whole against the decided table of codes, names, severities and evidence."""

import re

import pytest

from loradoctor.registry import FAMILIES, UnknownRule, all_rules, family, find, resolve

DECIDED = """
LD001 unparsable-source E
LD002 check-did-not-complete E
LD003 unused-suppression W
LD004 unreadable-file E
LD101 adapter-on-adapter E LO1
LD102 wrapped-twice E MA10
LD103 fresh-adapter-for-trained-one E LO3
LD104 frozen-resume E LO2
LD105 strict-false-adapter-load E LO4
LD106 pickle-against-state-dict E LO5
LD201 unwrapped-model-trained E TR1
LD202 optimizer-before-wrap E TR2
LD203 frozen-after-wrap E TR3
LD208 disable-adapter-statement E TR11
LD301 merge-result-dropped E SV1
LD302 trainer-unaware-of-merge E SV2
LD303 inner-model-saved E SV3
LD305 state-dict-patch E SV6
LD320 merge-into-quantized W MG2
LD401 task-type-head-mismatch E CF1
LD501 no-weights E F1
LD502 unreadable-weights E F2
LD503 lfs-pointer E F2
LD504 duplicate-tensor-name E F3
LD505 weights-disagree W F4
LD506 unsafe-pickle E F5
LD507 not-a-state-dict E F5
LD508 empty-weights E T3
LD509 foreign-format E K5
LD510 pickle-weights I SE2
LD520 unreadable-config E C9
LD521 unknown-method E C8
LD522 invalid-config-field E C2 C11
LD523 unknown-config-field W C10
LD525 base-path W C12
LD527 odd-scaling W C2
LD528 duplicate-config-key W C9
LD601 nested-wrapping E K1
LD602 wrapper-prefix E K2
LD603 adapter-name-in-key W K3
LD604 prefix-missing E K4
LD605 outside-target-modules E K6
LD606 missing-tensors E K7 K9 K12
LD607 orphan-half E K8
LD608 overwrites-base E K10 E2 E8
LD611 rank-mismatch E C1
LD612 flag-lost E C3 C4
LD613 target-modules-missing E C5
LD614 modules-to-save E E1 E3
LD615 base-mismatch E M1 M2
LD617 would-not-load E
LD618 target-absent-in-base W C6
LD701 not-finite E T1
LD702 untrained E T2
LD703 dead-modules W T2
LD704 zero-a E T2
LD801 merge-not-equivalent E
LD802 update-lost-to-rounding W T7
LD803 merge-overflow E T4
LD804 cannot-merge I
LD805 layer-replication E C16
LD806 tied-target E E6 E7
"""
ROWS = [line.split() for line in DECIDED.strip().splitlines()]
FAMILY_OF_DIGIT = {"0": "tool", "1": "lint", "2": "lint", "3": "lint", "4": "lint", "5": "checkpoint", "6": "checkpoint"}
FAMILY_OF_DIGIT |= {"7": "checkpoint", "8": "merge"}


def test_exactly_the_decided_rules_exist():
    assert [r.code for r in all_rules()] == [row[0] for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_rule_is_as_decided(row):
    code, name, severity, *refs = row
    rule = find(code)
    assert (rule.name, rule.severity.value[0].upper(), list(rule.refs)) == (name, severity, refs)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_rule_is_documented(row):
    doc = find(row[0]).doc
    summary, blank, rest = (*doc.split("\n", 2), "", "")[:3]
    assert re.fullmatch(r"[A-Z`\d].+\.", summary)
    assert len(summary) <= 130
    assert not blank
    assert len(rest.split()) >= 15, "says neither why it matters nor how to repair it"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_code_tells_its_family(name):
    assert {FAMILY_OF_DIGIT[r.code[2]] for r in family(name)} == {name}


def test_names_and_codes_are_unique():
    assert len({r.code for r in all_rules()} | {r.name for r in all_rules()}) == 2 * len(all_rules())


@pytest.mark.parametrize("spelling", ["LD001", "ld001", "unparsable-source", "Unparsable_Source", " LD001 "])
def test_a_rule_is_found_by_code_and_by_name(spelling):
    assert find(spelling).code == "LD001"


def test_a_prefix_stands_for_its_codes():
    assert resolve(["LD00", "LD101"]) == {"LD001", "LD002", "LD003", "LD004", "LD101"}


@pytest.mark.parametrize("nonsense", ["", "LD999", "no-such-rule"])
def test_an_unknown_rule_is_an_error(nonsense):
    with pytest.raises(UnknownRule):
        resolve([nonsense])
