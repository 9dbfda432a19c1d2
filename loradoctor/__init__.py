"""A doctor for LoRA and every other PEFT method.

``loradoctor.lint(paths)`` and ``loradoctor.check(path)`` return a :class:`Report`; assertions for tests are in
``loradoctor.testing``. Nothing is imported before it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from loradoctor.api import check as check
    from loradoctor.api import lint as lint
    from loradoctor.checkpoint.run import TargetError as TargetError
    from loradoctor.config import ConfigError as ConfigError
    from loradoctor.diagnostic import Check as Check
    from loradoctor.diagnostic import Diagnostic as Diagnostic
    from loradoctor.diagnostic import Edit as Edit
    from loradoctor.diagnostic import Fix as Fix
    from loradoctor.diagnostic import Location as Location
    from loradoctor.diagnostic import Related as Related
    from loradoctor.diagnostic import Report as Report
    from loradoctor.diagnostic import Severity as Severity
    from loradoctor.diagnostic import Span as Span
    from loradoctor.diagnostic import Subject as Subject

_DIAGNOSTIC = "loradoctor.diagnostic"
_HOMES = {
    "Check": _DIAGNOSTIC,
    "ConfigError": "loradoctor.config",
    "Diagnostic": _DIAGNOSTIC,
    "Edit": _DIAGNOSTIC,
    "Fix": _DIAGNOSTIC,
    "Location": _DIAGNOSTIC,
    "Related": _DIAGNOSTIC,
    "Report": _DIAGNOSTIC,
    "Severity": _DIAGNOSTIC,
    "Span": _DIAGNOSTIC,
    "Subject": _DIAGNOSTIC,
    "TargetError": "loradoctor.checkpoint.run",
    "check": "loradoctor.api",
}

__all__ = [
    "Check",
    "ConfigError",
    "Diagnostic",
    "Edit",
    "Fix",
    "Location",
    "Related",
    "Report",
    "Severity",
    "Span",
    "Subject",
    "TargetError",
    "__version__",
    "check",
    "lint",
]


def __getattr__(name: str) -> object:
    if name == "lint":
        # The package of that name is callable: importing it would shadow a function anyway.
        return import_module("loradoctor.lint")
    if name in _HOMES:
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value
    raise AttributeError(f"module `loradoctor` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
