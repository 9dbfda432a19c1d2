r"""Where text goes into a call or a statement, and what leaves with an argument, in whatever layout they are written.

Pure: a text and offsets in it, to an edit of that text: ``(start, end, replacement)`` in characters. New lines in it end in ``\n``,
whatever those of the text end in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

Span = tuple[int, int]
TextEdit = tuple[int, int, str]

_COMMENT = re.compile(r"#[^\r\n]*")
_TRIVIA = re.compile(r"(?:[ \t\f\r\n]|\\\r?\n|#[^\r\n]*)*")


@dataclass(frozen=True)
class Brackets:
    """What stands in the brackets of a call or a list of names: ``opened`` behind the opening one, ``closed`` before the closing one.

    ``bare`` when there are no brackets to write a new line in.
    """

    text: str
    items: Sequence[Span]
    opened: int
    closed: int
    bare: bool = False

    def added(self, item: str) -> TextEdit:
        """The edit that adds an item at the end: on a line of its own where the last one is."""
        if not self.items:
            return self._first(item)
        start, end = self.items[-1]
        comma = _comma(self.text, end, self.closed)
        lead = _before(self.text, start)
        if lead.strip() == "," and comma is None:
            return self._on_own_line(end, f"{lead}{item}")
        if self.bare or lead.strip() or not self._one_a_line:
            return (end, end, f", {item}") if comma is None else (comma + 1, comma + 1, f" {item},")
        if comma is None:
            spot, _, added = self._on_own_line(end, f"{lead}{item}")
            return end, spot, f",{self.text[end:spot]}{added}"
        return self._on_own_line(comma + 1, f"{lead}{item},")

    def removed(self, index: int) -> TextEdit:
        """The edit that removes an item with one comma; its comments stay."""
        cuts = [self._tidied(*cut) for cut in self._cuts(index)]
        only = self.items[0] if len(self.items) == 1 else None
        if only and not any(_COMMENT.search(self.text, *around) for around in ((self.opened, only[0]), (only[1], self.closed))):
            cuts = [(self.opened, self.closed)]
        kept = "".join(self.text[a[1] : b[0]] for a, b in pairwise(cuts))
        return cuts[0][0], cuts[-1][1], kept

    @property
    def _one_a_line(self) -> bool:
        last = self.items[-1]
        if _has_line(self.text[last[1] : self.closed]):
            return True
        return len(self.items) > 1 and all(not _before(self.text, start).strip() for start, _ in self.items[1:])

    def _on_own_line(self, after: int, line: str) -> TextEdit:
        """The line below the one that ``after`` is on, whose comment stays there."""
        found = re.compile(r"[ \t]*#[^\r\n]*").match(self.text, after)
        spot = found.end() if found else after
        return spot, spot, f"\n{line}"

    def _first(self, item: str) -> TextEdit:
        inside = self.text[self.opened : self.closed]
        if not _COMMENT.search(inside):
            return self.opened, self.closed, item
        line = _line_start(self.text, self.closed)
        indent = _before(self.text, self.closed)
        return line, line, f"{indent}    {item}\n"

    def _cuts(self, index: int) -> list[Span]:
        """What to cut out: the item and a comma, in one piece unless a comment stands between them."""
        start, end = self.items[index]
        low = self.items[index - 1][1] if index else self.opened
        high = self.items[index + 1][0] if index + 1 < len(self.items) else self.closed
        before = _comma(self.text, low, start) if index else None
        after = _comma(self.text, end, high)
        joined = before is not None and not _COMMENT.search(self.text, before, start)
        leading = joined and before is not None and after is not None and _has_line(self.text[end:after]) and not _has_line(self.text[before:start])
        if after is not None and not leading and not _COMMENT.search(self.text, end, after):
            return [(start, after + 1)]
        if before is not None and joined:
            return [(before, end)]
        if after is not None:
            return [(start, end), (after, after + 1)]
        return [(start, end)] if before is None else [(before, before + 1), (start, end)]

    def _tidied(self, start: int, end: int) -> Span:
        """The cut with the space, or the line, that would be left over."""
        lead, rest = _before(self.text, start), _behind(self.text, end)
        gap = len(rest) - len(rest.lstrip())
        if not lead.strip():
            own = rest.strip() in ("", "\\")
            return (start - len(lead), _next_line(self.text, end)) if own else (start, end + gap)
        if rest.strip() and rest.lstrip()[0] not in "#),":
            return start, end + gap
        return start - (len(lead) - len(lead.rstrip())), end


@dataclass(frozen=True)
class Simple:
    """A statement without a body of its own, and what shares its lines."""

    text: str
    start: int
    end: int

    @cached_property
    def lead(self) -> str:
        """What stands before it on its first line."""
        return _before(self.text, self.start)

    @cached_property
    def indent(self) -> str:
        """The white space that its block is indented by, where it begins its line."""
        return self.lead.rpartition("\f")[2]

    def preceded(self, code: str) -> TextEdit:
        """The edit that puts a statement before it."""
        own = f"\n{self.indent}" if not self.lead.strip() else "; "
        return self.start, self.start, f"{code}{own}"

    def followed(self, code: str) -> TextEdit:
        """The edit that puts a statement after it."""
        rest = _behind(self.text, self.end)
        if self.lead.strip() or (rest.strip(" \t\f;") and not rest.strip(" \t\f;").startswith("#")):
            return self.end, self.end, f"; {code}"
        spot = self.end + len(rest.rstrip())
        return spot, spot, f"\n{self.indent}{code}"

    def deleted(self, *, alone: bool) -> TextEdit:
        """The edit that removes it with its line; ``pass`` takes its place where it is ``alone`` in its block or shares a line."""
        rest = _behind(self.text, self.end)
        code, _, comment = rest.partition("#")
        if alone or self.lead.strip() or code.strip(" \t\f;"):
            return self.start, self.end, "pass"
        if comment:
            return self.start, self.end + len(code), ""
        return self.start - len(self.lead), _next_line(self.text, self.end), ""

    def bare(self, value: Span) -> TextEdit:
        """The edit that leaves of an assignment its value, with the brackets and comments around that."""
        head = _code_before(self.text, self.start, value[0])
        gap = re.compile(r"(?:[ \t\f]|\\\r?\n)*").match(self.text, self.start + len(head))
        return self.start, gap.end() if gap and head.endswith("=") else value[0], ""


def bracket_after(text: str, offset: int) -> int:
    """The place behind the bracket that opens a call, from the end of what is called."""
    for at in _code(text, offset):
        if text[at] == "(":
            return at + 1
    raise ValueError("a call without an opening bracket")


def imported(text: str, start: int, end: int) -> Brackets:
    """The names of a ``from`` import, in brackets or not."""
    plain = _COMMENT.sub(lambda c: " " * len(c[0]), text[start:end])
    found = re.search(r"\bimport\b[ \t\f(]*", plain)
    opened = found.end() if found else 0
    closed = plain.rfind(")") if found and "(" in found[0] else len(plain)
    names = re.compile(r"[\w.*]+(?:\s+as\s+\w+)?").finditer(plain, opened, closed)
    return Brackets(text, [(start + n.start(), start + n.end()) for n in names], start + opened, start + closed, bare=closed == len(plain))


def closed_after(text: str, start: int, value: Span) -> int:
    """The end of a value with the brackets around it, which open behind ``start``."""
    head = _code_before(text, start, value[0])
    depth = _COMMENT.sub("", text[start + len(head) : value[0]]).count("(")
    end = value[1]
    for at in _code(text, end) if depth else ():
        if not depth or text[at] != ")":
            break
        depth, end = depth - 1, at + 1
    return end


def _code_before(text: str, start: int, end: int) -> str:
    """``text[start:end]`` without the opening brackets and the white space at its end; comments are blanked out."""
    plain = _COMMENT.sub(lambda c: " " * len(c[0]), text[start:end])
    return plain.rstrip(" \t\f\r\n(\\")


def _code(text: str, offset: int, end: int | None = None) -> Iterator[int]:
    """The offsets of what is neither white space nor comment, from ``offset`` on."""
    at, end = offset, len(text) if end is None else end
    while at < end:
        trivia = _TRIVIA.match(text, at)
        at = trivia.end() if trivia else at
        if at < end:
            yield at
        at += 1


def _comma(text: str, start: int, end: int) -> int | None:
    return next((at for at in _code(text, start, end) if text[at] == ","), None)


def _has_line(text: str) -> bool:
    return "\n" in text or "\r" in text


def _line_start(text: str, offset: int) -> int:
    return max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1


def _before(text: str, offset: int) -> str:
    return text[_line_start(text, offset) : offset]


def _behind(text: str, offset: int) -> str:
    found = re.compile(r"[^\r\n]*").match(text, offset)
    return found[0] if found else ""


def _next_line(text: str, offset: int) -> int:
    found = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)?").match(text, offset)
    return found.end() if found else offset
