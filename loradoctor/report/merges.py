"""The table of what merging does, kind of module by kind of module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from loradoctor.report.escape import printable
from loradoctor.report.palette import Palette

SHOWN = 3
HEAD = ("kind", "n", "stored as", "effect", "lost", "most lost", "difference", "")


def merges(rows: object, paint: Palette) -> list[str]:
    """One line per kind of module in the ``merge`` fact.

    How many there are, the dtype, the median norm of the update over that of the weight, the share of it that storing loses (median
    and largest), the largest difference of outputs; then every status that is not ``equal``, elements that overflow, and who shares
    the weights.
    """
    rows = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    if not rows:
        return []
    kinds: dict[str, list[Mapping[str, object]]] = {}
    for row in rows:
        kinds.setdefault(str(row["module"]).rpartition(".")[2], []).append(row)
    table: list[Sequence[str]] = [HEAD, *(_cells(kind, own) for kind, own in sorted(kinds.items()))]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip() for row in table]
    return [f"  {paint('dim', 'merge')}", f"    {paint('dim', lines[0])}", *(f"    {line}" for line in lines[1:])]


def _cells(kind: str, rows: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    effects, lost, apart = (_numbers(rows, key) for key in ("effect", "lost", "difference"))
    dtypes = sorted({str(row["dtype"]) for row in rows if row["dtype"]})
    others = sorted({str(row["status"]) for row in rows} - {"equal"})
    if overflow := sum(_numbers(rows, "overflow")):
        others.append(f"{overflow:.0f} overflow")
    shared = sorted({str(name) for row in rows if isinstance(names := row.get("shared_with"), (list, tuple)) for name in names})
    if shared:
        others.append(f"shared with {', '.join(shared[:SHOWN])}{' ...' if len(shared) > SHOWN else ''}")
    return (
        printable(kind),
        str(len(rows)),
        printable(", ".join(dtypes)),
        f"{median(effects):.2g}" if effects else "",
        f"{median(lost):.2%}" if lost else "",
        f"{max(lost):.2%}" if lost else "",
        f"{max(apart):.1e}" if apart else "",
        printable(", ".join(others)),
    )


def _numbers(rows: Sequence[Mapping[str, object]], key: str) -> list[float]:
    return [float(value) for row in rows if isinstance(value := row.get(key), (int, float))]
