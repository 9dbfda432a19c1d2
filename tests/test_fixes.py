"""Edits applied to bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradoctor.diagnostic import Edit
from loradoctor.fixes import OverlappingEdits, apply


def test_edits_are_applied_whatever_their_order() -> None:
    assert apply(b"abcdef", [Edit(4, 6, "Z"), Edit(0, 1, "AA"), Edit(2, 2, "-")]) == b"AAb-cdZ"


def test_offsets_are_bytes_and_text_is_utf8() -> None:
    data = "größe = 1".encode()
    assert apply(data, [Edit(data.index(b"1"), len(data), "größer")]) == "größe = größer".encode()


def test_no_edit_changes_nothing() -> None:
    assert apply(b"abc", []) == b"abc"


def test_equal_edits_count_once() -> None:
    assert apply(b"abc", [Edit(1, 2, "x"), Edit(1, 2, "x", path="a.py")]) == b"axc"


@pytest.mark.parametrize(
    "edits",
    [
        [Edit(0, 3, "x"), Edit(2, 4, "y")],
        [Edit(0, 4, "x"), Edit(1, 2, "y")],
        [Edit(1, 1, "x"), Edit(1, 1, "y")],
        [Edit(1, 2, "x"), Edit(1, 2, "y")],
    ],
    ids=["across", "within", "two insertions at one place", "two replacements of one place"],
)
def test_edits_that_overlap_are_refused(edits: list[Edit]) -> None:
    with pytest.raises(OverlappingEdits):
        apply(b"abcdef", edits)


@pytest.mark.parametrize("edit", [Edit(-1, 1, ""), Edit(2, 1, ""), Edit(0, 7, "")])
def test_an_edit_outside_the_bytes_is_refused(edit: Edit) -> None:
    with pytest.raises(ValueError, match="outside"):
        apply(b"abcdef", [edit])


@given(st.binary(max_size=40), st.sets(st.integers(0, 40), max_size=8), st.text(max_size=3))
def test_what_no_edit_names_stays(data: bytes, cuts: set[int], text: str) -> None:
    ends = sorted(c for c in cuts if c <= len(data))
    edits = [Edit(a, b, text) for a, b in zip(ends[::2], ends[1::2], strict=False) if a < b]
    kept, at = [], 0
    for edit in edits:
        kept += [data[at : edit.start], text.encode("utf-8", "surrogatepass")]
        at = edit.end
    assert apply(data, edits) == b"".join([*kept, data[at:]])
