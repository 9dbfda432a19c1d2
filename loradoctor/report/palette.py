"""Colour, where a terminal wants it."""

from __future__ import annotations

from collections.abc import Mapping

_CODES = {
    "error": "1;31",
    "warning": "1;33",
    "info": "1;36",
    "gutter": "1;34",
    "bold": "1",
    "dim": "2",
    "passed": "32",
    "failed": "1;31",
    "vacuous": "33",
    "not-run": "2",
}


class Palette:
    """Paints text by role (a severity, a check's status, ``gutter`` …); leaves it alone when not ``enabled``."""

    # No dataclass, here and in the text report: making one takes longer than a report without findings.
    __slots__ = ("enabled",)

    def __init__(self, *, enabled: bool = False) -> None:
        self.enabled = enabled

    def __call__(self, role: str, text: str) -> str:
        """``text`` in the colour of ``role``; a role without a colour is plain."""
        code = _CODES.get(role)
        return f"\x1b[{code}m{text}\x1b[0m" if self.enabled and code and text else text


def wants_colour(is_terminal: bool, environ: Mapping[str, str]) -> bool:
    """Whether output should be coloured: ``NO_COLOR`` wins, then ``FORCE_COLOR``; else a terminal that is not dumb."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return is_terminal and environ.get("TERM") != "dumb"


def wants_motion(is_terminal: bool, environ: Mapping[str, str]) -> bool:
    """Whether progress may be drawn: only on a terminal that a person looks at."""
    return is_terminal and environ.get("TERM") != "dumb" and not environ.get("CI")
