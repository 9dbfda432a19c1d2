"""Reports: each format is a function from a :class:`~loradoctor.diagnostic.Report` to a string."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from loradoctor.diagnostic import Report

# Imported when asked for: a text report must not pay for the modules of the machine formats.
_MACHINE_FORMATS = {
    "json": "loradoctor.report.json_format",
    "sarif": "loradoctor.report.sarif",
    "github": "loradoctor.report.github",
}

FORMATS = ("text", *_MACHINE_FORMATS)
"""What ``--format`` accepts."""


def machine_renderer(name: str) -> Callable[[Report], str]:
    """The renderer of a format that programs read: ``json``, ``sarif`` or ``github``. Raises ``KeyError`` for another."""
    render: Callable[[Report], str] = import_module(_MACHINE_FORMATS[name]).render
    return render
