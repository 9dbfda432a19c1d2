"""Paths: string values that name files and directories, made comparable within a run and between scripts."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from loradoctor.lint.flow.values import Known, Template, Unknown, Value
from loradoctor.lint.record import record

CHECKPOINT = "checkpoint-*"
"""Stands for every directory that a trainer numbers by its step."""

_NUMBERED = re.compile(r"(^|/)checkpoint-\d+$")


@record
class Place:
    """A path as text; ``assumed`` where a part of it is the default of a setting, which the caller may change."""

    text: str
    assumed: bool = False


def normal(value: Value | None) -> Value | None:
    """One value for all spellings of a path (``./out/``, ``out``); None for what cannot be compared.

    Unknown parts are symbols: two paths with equal normal forms are the same path in one run.
    """
    match value:
        case Known(value=str(text)):
            return Known(clean(text))
        case Template(parts=parts):
            tidy = _tidy(parts)
            return tidy[0] if len(tidy) == 1 else Template(tidy)
        case Known() | Unknown():
            return value
        case _:
            return None


def same(one: Value | None, other: Value | None) -> bool:
    """Whether two values are provably one path in one run."""
    first = normal(one)
    return first is not None and first == normal(other)


def place(value: Value | None, defaults: Mapping[str, Value]) -> Place | None:
    """What a path says literally, or with the defaults of the settings in it; None where that is not decided."""
    match value:
        case Known(value=str(text)) if text.strip():
            return Place(clean(text))
        case Unknown(key=key) if key in defaults:
            found = place(defaults[key], {})
            return Place(found.text, assumed=True) if found else None
        case Template(parts=parts):
            pieces = [_piece(part, defaults) for part in parts]
            if any(piece is None for piece in pieces):
                return None
            text = "".join(piece.text for piece in pieces if piece)
            return Place(clean(text), any(piece.assumed for piece in pieces if piece)) if text.strip() else None
        case _:
            return None


def clean(text: str) -> str:
    """A path without what changes nothing: ``./``, doubled and final slashes."""
    return text if "://" in text or not text else posixpath.normpath(text)


def pattern(text: str) -> str:
    """The path under which checkpoints are filed: their numbers are the run's business."""
    return _NUMBERED.sub(lambda m: m[1] + CHECKPOINT, text)


def _piece(part: Value, defaults: Mapping[str, Value]) -> Place | None:
    if isinstance(part, Known):
        return Place(str(part.value))
    default = defaults.get(part.key) if isinstance(part, Unknown) else None
    return Place(str(default.value), assumed=True) if isinstance(default, Known) and default.value is not None else None


def _tidy(parts: tuple[Value, ...]) -> tuple[Value, ...]:
    last = len(parts) - 1
    tidy: list[Value] = []
    for index, part in enumerate(parts):
        if not isinstance(part, Known):
            tidy.append(part)
            continue
        text = re.sub(r"/(?:\.?/)+", "/", str(part.value))
        text = text.removeprefix("./") if index == 0 else text
        text = text.rstrip("/") if index == last else text
        if text:
            tidy.append(Known(text))
    return tuple(tidy) or parts
