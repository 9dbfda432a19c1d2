"""Reports: each format is a function from a :class:`~loradoctor.diagnostic.Report` to a string."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from loradoctor.diagnostic import Report

# Imported when asked for: a text report must not pay for the modules of the others.
_RENDERERS = {
    "json": "loradoctor.report.json_format",
    "sarif": "loradoctor.report.sarif",
    "github": "loradoctor.report.github",
    "concise": "loradoctor.report.concise",
}

FORMATS = ("text", *_RENDERERS)
"""What ``--format`` accepts."""

WHOLE = frozenset({"json", "sarif"})
"""Formats whose output is one document with everything in it; of the others every line counts alone."""


def renderer(name: str) -> Callable[[Report], str]:
    """The renderer of any format but ``text``, which needs to know the terminal. Raises ``KeyError`` for no format."""
    render: Callable[[Report], str] = import_module(_RENDERERS[name]).render
    return render
