"""Documents: the Python in Markdown, reStructuredText and exported notebooks, block by block.

Documentation is where these bugs are copied from, and it is never tidy: fences that are not closed, fences inside lists,
doctest sessions, and notebooks pasted as text. A block is Python when it says so, or when it says nothing and reads like it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

SUFFIXES = (".md", ".mdx", ".rst", ".txt", ".markdown")

_FENCE = re.compile(r"^(?P<indent>[ \t]*(?:(?:>|[-*+]|\d+[.)])[ \t]+)*)(?P<mark>`{3,}|~{3,})[ \t]*(?P<info>[^`\r\n]*)$")
_PYTHON = re.compile(r"^\{?\.?\s*(python3?|py3?|ipython3?|pycon|ipynb|jupyter)\b", re.IGNORECASE)
_SPHINX = re.compile(r"^(?P<indent>[ \t]*)\.\.[ \t]+(?:code-block|code|sourcecode|ipython|testcode)::[ \t]*(?P<info>\w*)[ \t]*$")
_PROMPT = re.compile(r"^(?P<indent>[ \t]*)(?P<mark>>>>|\.\.\.)(?: (?P<code>.*))?$")
_EXPORT = re.compile(r"^[ \t]*In[ \t]*\[[ \d*]*\]:[ \t]?")
_OUTPUT = re.compile(r"^[ \t]*Out[ \t]*\[[ \d*]*\]:")
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+\S")
_UNDERLINE = re.compile(r"^(=+|-+|~+|\^+|\*+|\"+)[ \t]*$")
_CODE_LINE = re.compile(r"^[ \t]*(?:import |from \w[\w.]* import |[\w.\[\]'\", ]+ = |[\w.]+\(|@|def |class |for |with |if )", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One stretch of code: for each of its lines the text, and where that text begins in the document (characters).

    ``heading`` when a heading stands between it and the block before.
    """

    lines: tuple[tuple[str, int], ...]
    heading: bool

    @property
    def text(self) -> str:
        """The code, one newline behind every line."""
        return "".join(f"{line}\n" for line, _ in self.lines)


Line = tuple[str, int]


def blocks(text: str) -> list[Block]:
    """The Python blocks of a document, in order."""
    lines: list[Line] = []
    offset = 0
    for raw in text.splitlines(keepends=True):
        lines.append((raw.rstrip("\r\n"), offset))
        offset += len(raw)
    return list(_Scan(lines).run())


class _Scan:
    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines
        self.at = 0
        self.heading = False

    def run(self) -> Iterator[Block]:
        while self.at < len(self.lines):
            line = self.lines[self.at][0]
            found: list[Line] | None = None
            if fence := _FENCE.match(line):
                found = self.fenced(fence)
            elif sphinx := _SPHINX.match(line):
                found = self.indented(sphinx)
            elif _PROMPT.match(line):
                found = self.session(_PROMPT)
            elif _EXPORT.match(line):
                found = self.exported()
            else:
                self.heading |= self.is_heading(line)
                self.at += 1
            if found:
                yield Block(tuple(_dedented(found)), self.heading)
                self.heading = False

    def is_heading(self, line: str) -> bool:
        if _HEADING.match(line):
            return True
        following = self.lines[self.at + 1][0] if self.at + 1 < len(self.lines) else ""
        return bool(line.strip() and len(line.strip()) <= len(following.strip()) and _UNDERLINE.match(following))

    def fenced(self, fence: re.Match[str]) -> list[Line] | None:
        """The lines up to the closing fence, or to one that opens another block where this one was never closed."""
        mark, info = fence["mark"], fence["info"].strip()
        self.at += 1
        body: list[Line] = []
        while self.at < len(self.lines):
            line = self.lines[self.at][0]
            other = _FENCE.match(line)
            if other and other["mark"][0] == mark[0] and len(other["mark"]) >= len(mark):
                if not other["info"].strip():
                    self.at += 1
                break
            body.append(self.lines[self.at])
            self.at += 1
        if info and not _PYTHON.match(info):
            return None
        text = "\n".join(line for line, _ in body)
        if re.search(r"^\s*>>> ", text, re.MULTILINE):
            return [part for line in body for part in _unprompted(line)]
        if re.search(_EXPORT.pattern, text, re.MULTILINE):
            return [part for line in body for part in _unexported(line)]
        return body if info or _reads_like_python(text) else None

    def indented(self, directive: re.Match[str]) -> list[Line] | None:
        """The body of a directive: everything indented deeper, without its options."""
        depth = len(directive["indent"])
        self.at += 1
        body: list[Line] = []
        while self.at < len(self.lines):
            line = self.lines[self.at][0]
            if line.strip() and len(line) - len(line.lstrip()) <= depth:
                break
            body.append(self.lines[self.at])
            self.at += 1
        while body and (not body[0][0].strip() or re.match(r"\s*:[\w-]+:", body[0][0])):
            body.pop(0)
        info = directive["info"]
        if any(line.lstrip().startswith(">>> ") for line, _ in body):
            body = [part for line in body for part in _unprompted(line)]
        return body if not info or _PYTHON.match(info) else None

    def session(self, prompt: re.Pattern[str]) -> list[Line]:
        """A doctest session: its prompted lines; what Python answered is left out."""
        body: list[Line] = []
        while self.at < len(self.lines) and self.lines[self.at][0].strip():
            if prompt.match(self.lines[self.at][0]):
                body += _unprompted(self.lines[self.at])
            self.at += 1
        return body

    def exported(self) -> list[Line]:
        """A cell of a notebook exported as text: from `In [3]:` to its output or the next cell."""
        body: list[Line] = []
        first = True
        while self.at < len(self.lines):
            line = self.lines[self.at][0]
            if _OUTPUT.match(line) or (not first and (_EXPORT.match(line) or (_HEADING.match(line) and not _looks_like_comment(line)))):
                break
            body += _unexported(self.lines[self.at])
            first = False
            self.at += 1
        while body and not body[-1][0].strip():
            body.pop()
        return body if _reads_like_python("\n".join(line for line, _ in body)) else []


def _looks_like_comment(line: str) -> bool:
    return line.startswith("# ")


def _unprompted(line: Line) -> list[Line]:
    match = _PROMPT.match(line[0])
    if match is None:
        return []
    code = match["code"] or ""
    return [(code, line[1] + len(line[0]) - len(code))]


def _unexported(line: Line) -> list[Line]:
    match = _EXPORT.match(line[0])
    if match is None:
        return [line] if not _OUTPUT.match(line[0]) else []
    return [(line[0][match.end() :], line[1] + match.end())]


def _dedented(lines: list[Line]) -> Iterator[Line]:
    depths = [len(line) - len(line.lstrip()) for line, _ in lines if line.strip()]
    depth = min(depths, default=0)
    for line, offset in lines:
        cut = min(depth, len(line) - len(line.lstrip()))
        yield line[cut:], offset + cut


def _reads_like_python(text: str) -> bool:
    return bool(_CODE_LINE.search(text))
