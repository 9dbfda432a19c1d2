"""The table of what an adapter changes, kind of module by kind of module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loradoctor.report.escape import printable
from loradoctor.report.palette import Palette

HEAD = ("kind", "n", "norm", "lowest", "highest", "effective rank", "first direction")


def updates(rows: object, paint: Palette) -> list[str]:
    """One line per family of the ``updates`` fact: how many modules, median and range of the norm, effective rank, dominance."""
    rows = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    if not rows:
        return []
    table: list[Sequence[str]] = [HEAD, *map(_cells, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]) for row in table]
    return [f"  {paint('dim', 'updates')}", f"    {paint('dim', lines[0])}", *(f"    {line}" for line in lines[1:])]


def _cells(row: Mapping[str, object]) -> tuple[str, ...]:
    norm = row["norm"]
    low, middle, high = (_number(norm[k]) for k in ("min", "median", "max")) if isinstance(norm, Mapping) else ("", "", "")
    share = row["dominance"]
    return (
        printable(str(row["family"])),
        str(row["modules"]),
        middle,
        low,
        high,
        f"{_number(row['effective_rank'])} of {row['rank']}",
        f"{share:.0%}" if isinstance(share, float) else "",
    )


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, (int, float)) else ""
