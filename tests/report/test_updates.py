"""The table of updates: there with --verbose, in columns, with hostile names escaped."""

from __future__ import annotations

from loradoctor.diagnostic import Report, Severity, Subject
from loradoctor.report.palette import Palette
from loradoctor.report.text import Text
from loradoctor.report.updates import updates

ROW = {
    "family": "q_proj", "modules": 32, "zero": 0, "rank": 16, "norm": {"median": 0.41234, "min": 0.12, "max": 1234.5},
    "effective_rank": 11.23, "dominance": 0.4321,
}  # fmt: skip
REPORT = Report(subjects=(Subject("a", "adapter", {"method": "LORA", "updates": [ROW]}),))


def test_columns_line_up() -> None:
    assert updates([ROW, {**ROW, "family": "mlp.down_proj"}], Palette()) == [
        "  updates",
        "    kind            n   norm  lowest   highest  effective rank  first direction",
        "    q_proj         32  0.412    0.12  1.23e+03      11.2 of 16              43%",
        "    mlp.down_proj  32  0.412    0.12  1.23e+03      11.2 of 16              43%",
    ]


def test_the_table_is_shown_with_everything_else_only() -> None:
    assert "effective rank" in Text(Severity.INFO).render(REPORT)
    assert "q_proj" not in Text(Severity.WARNING).render(REPORT)


def test_no_updates_no_table() -> None:
    assert updates([], Palette()) == updates(None, Palette()) == []


def test_names_out_of_files_are_escaped() -> None:
    assert "\x1b" not in "".join(updates([{**ROW, "family": "\x1b[2Jq"}], Palette()))
