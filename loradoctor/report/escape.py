"""Strings out of files are hostile: nothing in them may move the cursor, reorder the line or fake a second one."""

from __future__ import annotations

from collections.abc import Mapping

MESSAGE_LIMIT = 4000
"""Characters of one message that are shown; a tensor name can be as long as the file."""


def printable(text: str, limit: int = MESSAGE_LIMIT) -> str:
    r"""``text`` on one line, every character that a terminal would act on spelled out (``\x1b``, ``\u202e``).

    ``str.isprintable`` is false for control and format characters (so for escapes, bidirectional overrides, zero-width
    characters), for line and paragraph separators, lone surrogates and private use.
    """
    if len(text) > limit:
        text = f"{text[:limit]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _spelled_out(c) for c in text)


def _spelled_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def without_surrogates(text: str) -> str:
    """``text`` with lone surrogates spelled out: they come from undecodable file names and are valid in no encoding."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def jsonable(value: object) -> object:
    """``value`` as the plain data that JSON has; numbers JSON lacks (NaN, infinities) become strings."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return without_surrogates(str(value))
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if value - value == 0 else str(float(value))
    if isinstance(value, Mapping):
        return {without_surrogates(str(k)): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return [jsonable(v) for v in sorted(value, key=str)]
    return without_surrogates(str(value))
