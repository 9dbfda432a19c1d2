"""Documents: the Python in Markdown, reStructuredText and exported notebooks, block by block.

Documentation is where these bugs are copied from, and it is never tidy: fences that are not closed, fences inside lists and
quotations, doctest sessions, and notebooks pasted as text. A block is Python when it says so, or when it says nothing and
reads like it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from loradoctor.lint import snippet

SUFFIXES = (".md", ".mdx", ".rst", ".txt", ".markdown")

_FENCE = re.compile(r"^(?P<indent>[ \t]*(?:(?:>|[-*+]|\d+[.)])[ \t]*)*)(?P<mark>`{3,}|~{3,})[ \t]*(?P<info>[^`\r\n]*)$")
_PYTHON = re.compile(
    r"(?:\{(?:code|code-block|code-cell|sourcecode)\}\s*)?\{?\.?\s*(?:lang(?:uage)?-)?(?:python3?|py3?|ipython3?|pycon|ipynb|jupyter)\b"
    r"|\{(?:code-cell|testcode|ipython)\}\s*$",
    re.IGNORECASE,
)
_NOT_CODE = re.compile(r"\boutput\b", re.IGNORECASE)  # the Hub's documentation marks what a program printed as `python output`
_SPHINX = re.compile(
    r"^(?P<indent>[ \t]*)\.\.[ \t]+(?P<name>code-block|code|sourcecode|ipython|testcode|testsetup|doctest|jupyter-execute)::"
    r"[ \t]*(?P<info>[\w.+-]*)[ \t]*$"
)
_LITERAL = re.compile(r"^(?P<indent>[ \t]*)(?!\.\.[ \t]).*::[ \t]*$")
_PROMPT = re.compile(r"^(?P<indent>[ \t]*)(?P<mark>>>>|\.\.\.)(?: (?P<code>.*))?$")
_CELL = r"\[(?:[ \d*]*|None)\]:"
_EXPORT = re.compile(rf"^[ \t]*(?:In[ \t]*{_CELL}[ \t]?|{_CELL}[ \t]*$)")
_NUMBER = re.compile(r"\[[ ]*(\d+)")
_OUTPUT = re.compile(rf"^[ \t]*Out[ \t]*{_CELL}")
_CONTINUED = re.compile(r"^[ \t]*\.{3,}:[ \t]?")
_HEADING = re.compile(r"^ {0,3}(?:#{1,6}[ \t]+\S|<h[1-6][ >])")
_UNDERLINE = re.compile(r"^(=+|-+|~+|\^+|\*+|\"+)[ \t]*$")
_CODE_LINE = re.compile(r"^[ \t]*(?:import |from \w[\w.]* import |[\w.\[\]'\", ]+ = |[\w.]+\(|@|def |class |for |with |if )", re.MULTILINE)
_SURELY_CODE = re.compile(r"^[ \t]*(?:import \w|from \w[\w.]* import |def \w+\(.*:|class \w+.*:)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One stretch of code: for each of its lines the text, and where that text begins in the document (characters).

    ``heading`` when a heading stands between it and the block before; ``runs_on`` when it is a cell of the same exported
    notebook as the block before.
    """

    lines: tuple[tuple[str, int], ...]
    heading: bool
    runs_on: bool = False

    @property
    def text(self) -> str:
        """The code, one newline behind every line."""
        return "".join(f"{line}\n" for line, _ in self.lines)

    @property
    def code(self) -> str:
        """The text as Python, character for character in its place."""
        return snippet.code(self.text)

    @property
    def fresh(self) -> list[str]:
        """The names that mean something else here than in the blocks before: those it binds itself."""
        return [] if self.runs_on else snippet.bound(self.text)


Line = tuple[str, int]


def blocks(text: str) -> list[Block]:
    """The Python blocks of a document, in order."""
    lines: list[Line] = []
    offset = 0
    for raw in re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text):
        mark = 1 if not offset and raw.startswith("\ufeff") else 0
        lines.append((raw[mark:].rstrip("\r\n"), offset + mark))
        offset += len(raw)
    return list(_Scan(lines).run())


class _Scan:
    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines
        self.at = 0
        self.heading = False
        self.number: int | None = None  # of the last cell of an exported notebook; None after any other block

    def run(self) -> Iterator[Block]:
        while self.at < len(self.lines):
            line = self.lines[self.at][0]
            if fence := _FENCE.match(line):
                yield from self.fenced(fence)
            elif sphinx := _SPHINX.match(line):
                yield from self.block(self.directive(sphinx))
            elif _prompted(line):
                yield from self.block(self.session())
            elif _EXPORT.match(line):
                yield from self.cell(self.exported())
            elif _LITERAL.match(line) and (found := self.literal(line)):
                yield from self.block(found)
            else:
                self.heading |= self.is_heading(line)
                self.at += 1

    def block(self, lines: list[Line]) -> Iterator[Block]:
        if lines:
            yield Block(tuple(_dedented(lines)), self.heading)
            self.heading, self.number = False, None

    def cell(self, body: list[Line]) -> Iterator[Block]:
        """A cell of an exported notebook: it runs on from the cell before, whatever stands between, until the numbers start again."""
        counted = _NUMBER.search(body[0][0]) if body else None
        before, self.number = self.number, int(counted[1]) if counted else (self.number or 0)
        code = _code_of_cell(body)
        if code:
            again = before is not None and self.number == 1 and before >= 1
            yield Block(tuple(_dedented(code)), again or (before is None and self.heading), runs_on=before is not None and not again)
            self.heading = False

    def is_heading(self, line: str) -> bool:
        if _HEADING.match(line):
            return True
        following = self.lines[self.at + 1][0].strip() if self.at + 1 < len(self.lines) else ""
        if not line.strip() or not _UNDERLINE.match(following) or _UNDERLINE.match(line.strip()):
            return False
        return len(line.strip()) <= len(following) or (len(following) >= 3 and following[0] in "=-")

    def fenced(self, fence: re.Match[str]) -> Iterator[Block]:
        """The lines up to the closing fence, or to one that opens another block where this one was never closed."""
        mark, info = fence["mark"], fence["info"].strip()
        self.at += 1
        body: list[Line] = []
        closed = False
        while self.at < len(self.lines) and not closed:
            other = _FENCE.match(self.lines[self.at][0])
            if other and other["mark"][0] == mark[0] and len(other["mark"]) >= len(mark):
                if other["info"].strip():
                    break
                closed = True
            else:
                body.append(self.lines[self.at])
            self.at += 1
        if info and (not _PYTHON.match(info) or _NOT_CODE.search(info)):
            return
        body = list(_within(body, fence["indent"]))
        if any(_EXPORT.match(line) for line, _ in body):
            for cell in _cells(body):
                yield from self.cell(cell)
        elif any(_prompted(line) for line, _ in body):
            yield from self.block([part for line in body for part in _unprompted(line)])
        elif info or _is_python(body):
            # Where the closing fence was forgotten, text follows the code.
            count = 0 if closed else snippet.python_lines([line for line, _ in _dedented(body)])
            yield from self.block(body[:count] or body)

    def directive(self, directive: re.Match[str]) -> list[Line]:
        """The body of a directive: everything indented deeper, without its options."""
        body = self.deeper(len(directive["indent"]))
        while body and (not body[0][0].strip() or re.match(r"\s*:[\w-]+:", body[0][0])):
            body.pop(0)
        if any(_prompted(line) for line, _ in body):
            body = [part for line in body for part in _unprompted(line)]
        if directive["name"] not in ("code-block", "code", "sourcecode"):
            return body
        info = directive["info"]
        return body if (_PYTHON.match(info) if info else _is_python(body)) else []

    def literal(self, line: str) -> list[Line]:
        """The indented text after a line that ends in ``::``, when it is Python; else nothing is read."""
        start = self.at
        body = self.deeper(len(line) - len(line.lstrip()))
        if len(body) > 1 and not body.pop(0)[0].strip():
            if any(_prompted(one) for one, _ in body):
                return [part for one in body for part in _unprompted(one)]
            if _is_python(body):
                return body
        self.at = start
        return []

    def deeper(self, depth: int) -> list[Line]:
        """The lines after this one that are blank or indented deeper than ``depth``."""
        self.at += 1
        body: list[Line] = []
        while self.at < len(self.lines):
            line = self.lines[self.at][0]
            if line.strip() and len(line) - len(line.lstrip()) <= depth:
                break
            body.append(self.lines[self.at])
            self.at += 1
        return body

    def session(self) -> list[Line]:
        """A doctest session: its prompted lines; what Python answered is left out."""
        body: list[Line] = []
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if not line[0].strip() and not self.prompt_follows():
                break
            body += _unprompted(line)
            self.at += 1
        return body

    def prompt_follows(self) -> bool:
        """Whether the session goes on after blank lines."""
        at = self.at
        while at < len(self.lines) and not self.lines[at][0].strip():
            at += 1
        return at < len(self.lines) and _prompted(self.lines[at][0])

    def exported(self) -> list[Line]:
        """A cell of a notebook exported as text, with what it printed and the text after it: up to its output or the next cell."""
        body: list[Line] = [self.lines[self.at]]
        self.at += 1
        while self.at < len(self.lines):
            line = self.lines[self.at][0]
            if _OUTPUT.match(line) or _EXPORT.match(line) or _FENCE.match(line):
                break
            body.append(self.lines[self.at])
            self.at += 1
        return body


def _within(lines: list[Line], indent: str) -> Iterator[Line]:
    """The lines of a fence without the marks of the quotation it stands in, and without the fence's own indentation."""
    quotes = indent.count(">")
    for text, offset in lines:
        line, at = text, offset
        for _ in range(quotes):
            if quoted := re.match(r"[ \t]{0,3}>[ ]?", line):
                line, at = line[quoted.end() :], at + quoted.end()
        if not quotes:
            cut = min(len(indent), len(line) - len(line.lstrip()))
            line, at = line[cut:], at + cut
        yield line, at


def _prompted(line: str) -> bool:
    return line.lstrip().startswith(">>> ")


def _unprompted(line: Line) -> list[Line]:
    match = _PROMPT.match(line[0])
    if match is None:
        return []
    code = match["code"] or ""
    return [(code, line[1] + len(line[0]) - len(code))]


def _cells(lines: list[Line]) -> list[list[Line]]:
    """The cells of an export inside a fence, each from its prompt to its output."""
    cells: list[list[Line]] = []
    inside = False
    for line in lines:
        if _EXPORT.match(line[0]):
            cells.append([])
            inside = True
        elif _OUTPUT.match(line[0]):
            inside = False
        if inside:
            cells[-1].append(line)
    return cells


def _code_of_cell(body: list[Line]) -> list[Line]:
    """The code of a cell: behind its prompts where each line has one, else as far as it is Python."""
    if not body:
        return []
    prompt = _EXPORT.match(body[0][0])
    at = prompt.end() if prompt else 0
    first = (body[0][0][at:], body[0][1] + at)
    continued = [(line[match.end() :], offset + match.end()) for line, offset in body[1:] if (match := _CONTINUED.match(line))]
    lines = list(_from_margin([first, *(continued or body[1:])]))
    if not continued:
        lines = lines[: snippet.python_lines([line for line, _ in lines])] or lines
    return lines if _reads_like_python("\n".join(line for line, _ in lines)) else []


def _from_margin(lines: list[Line]) -> Iterator[Line]:
    """The lines without the indentation of the first one; what is printed after an indented cell is not indented."""
    margin = next((len(line) - len(line.lstrip()) for line, _ in lines if line.strip()), 0)
    for line, offset in lines:
        cut = min(margin, len(line) - len(line.lstrip()))
        yield line[cut:], offset + cut


def _dedented(lines: list[Line]) -> Iterator[Line]:
    depths = [len(line) - len(line.lstrip()) for line, _ in lines if line.strip()]
    depth = min(depths, default=0)
    for line, offset in lines:
        cut = min(depth, len(line) - len(line.lstrip()))
        yield line[cut:], offset + cut


def _is_python(lines: list[Line]) -> bool:
    """Whether lines that do not say what they are read like Python, and either parse or can be nothing else."""
    text = "\n".join(line for line, _ in _dedented(lines)) + "\n"
    if not _reads_like_python(text):
        return False
    return bool(_SURELY_CODE.search(text)) or snippet.parsed(snippet.code(text)) is not None


def _reads_like_python(text: str) -> bool:
    return bool(_CODE_LINE.search(text))
