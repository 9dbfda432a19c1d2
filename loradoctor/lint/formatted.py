"""Where the expressions of a formatted string stand, by the grammar that Python had until 3.12."""

from __future__ import annotations

import re

_OPENING = re.compile(r"([A-Za-z]{0,2})(\"{3}|'{3}|\"|')")
_BETWEEN = re.compile(r"(?:\s|\\\r?\n|#[^\r\n]*)+")
_STRING = re.compile(r"\"{3}.*?\"{3}|'{3}.*?'{3}|\"[^\"]*\"|'[^']*'", re.DOTALL)
_EQUALS = re.compile(r"=\s*(?=[!:}])")
_COMPARISON = re.compile(r"[=!<>]=")


def fields(text: str, start: int, end: int) -> list[tuple[int, str]]:
    """Offset and text of every expression in the string literals ``text[start:end]``, in order; none when they are odd."""
    found: list[tuple[int, str]] = []
    here = start
    try:
        while here < end:
            if gap := _BETWEEN.match(text, here):
                here = gap.end()
                continue
            opening = _OPENING.match(text, here)
            if opening is None:
                return []
            prefix, quote = opening[1].lower(), opening[2]
            here = _literal(text, opening.end(), quote, prefix, found)
    except IndexError:
        return []
    return found


def _literal(text: str, here: int, quote: str, prefix: str, found: list[tuple[int, str]]) -> int:
    """Past the end of a literal whose content begins at ``here``."""
    formatted = "f" in prefix
    while not text.startswith(quote, here):
        here = _piece(text, here, "r" in prefix, found) if formatted else here + (2 if text[here] == "\\" else 1)
    return here + len(quote)


def _piece(text: str, here: int, raw: bool, found: list[tuple[int, str]]) -> int:
    character = text[here]
    if character == "\\":
        if not raw and text.startswith("N{", here + 1):
            return text.index("}", here) + 1
        return here + (1 if text[here + 1] in "{}" else 2)
    if character == "{":
        return here + 2 if text[here + 1] == "{" else _field(text, here + 1, raw, found)
    return here + 1


def _field(text: str, start: int, raw: bool, found: list[tuple[int, str]]) -> int:
    """Past the closing brace of a field whose expression begins at ``start``."""
    here = _expression_end(text, start)
    found.append((start, text[start:here]))
    if text[here] == "=":
        here = _EQUALS.match(text, here).end()  # type: ignore[union-attr] # the expression ends only before one that matches
    if text[here] == "!":
        here += 2
        while text[here] not in ":}":
            here += 1
    if text[here] == ":":
        here += 1
        while text[here] != "}":
            here = _field(text, here + 1, raw, found) if text[here] == "{" else here + 1
    return here + 1


def _expression_end(text: str, here: int) -> int:
    depth = 0
    while True:
        character = text[here]
        if string := _STRING.match(text, here):
            here = string.end()
        elif comparison := _COMPARISON.match(text, here):
            here = comparison.end()
        elif not depth and (character in "}!:" or (character == "=" and _EQUALS.match(text, here))):
            return here
        else:
            depth += (character in "([{") - (character in ")]}")
            here += 1
