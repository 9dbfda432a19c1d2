"""Small phrases that many findings share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_WIDTH = 150
"""Characters that an enumeration may take before it hides the sentence."""

_LONGEST = 1000
"""Characters of one name: no module path has more, a hostile file has millions."""


def listed(names: Iterable[object], limit: int = 3) -> str:
    """Up to ``limit`` names in backticks, fewer when they are long, and how many more there are."""
    known = list(dict.fromkeys(str(n) for n in names))
    while limit > 1 and sum(map(len, known[:limit])) > _WIDTH:
        limit -= 1
    shown = ", ".join(f"`{n}`" if len(n) <= _LONGEST else f"`{n[:_LONGEST]}…`" for n in known[:limit])
    return f"{shown} and {len(known) - limit} more" if len(known) > limit else shown


def counted(count: int, noun: str, plural: str = "") -> str:
    """``3 tensors``, ``1 tensor``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def verb(count: int, one: str, many: str) -> str:
    """``is`` or ``are``, whatever fits ``count``."""
    return one if count == 1 else many


def evidence(cause: str, names: Sequence[str], **more: object) -> dict[str, object]:
    """The ``data`` of a finding about tensors or modules: cause, how many, and the first three."""
    return {"cause": cause, "count": len(names), "examples": list(names[:3]), **more}
