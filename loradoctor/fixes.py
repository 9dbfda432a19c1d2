"""Edits applied to bytes. Pure: reading, writing and deciding happen elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from loradoctor.diagnostic import Edit


class OverlappingEdits(ValueError):
    """Two edits claim the same bytes; applying both would mix them."""


def apply(data: bytes, edits: Iterable[Edit]) -> bytes:
    """``data`` with every edit applied; offsets are those of ``data``, whatever the order of the edits.

    Equal edits count once. Raises :class:`OverlappingEdits` when two share a byte or insert at the same place, and
    :class:`ValueError` when one lies outside the data.
    """
    ordered = sorted({(e.start, e.end, e.text) for e in edits})
    out, done, inserted = [], 0, -1
    for start, end, text in ordered:
        if not 0 <= start <= end <= len(data):
            raise ValueError(f"an edit of bytes {start} to {end} lies outside the {len(data)} bytes of the text")
        if start < done or (start == end == inserted):
            raise OverlappingEdits(f"two edits claim byte {start}")
        out += [data[done:start], text.encode("utf-8", "surrogatepass")]
        done = end
        inserted = start if start == end else -1
    return b"".join([*out, data[done:]])
