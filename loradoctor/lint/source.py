"""One file as Python text, and the way back from a place in that text to a place in the file."""

from __future__ import annotations

import re
from bisect import bisect_right
from codecs import BOM_UTF8, lookup
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from loradoctor.diagnostic import Edit, Location, Span
from loradoctor.lint import document, files

_CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_NEWLINE = re.compile(r"\r\n|\r|\n")


BLOCK = "__loradoctor_block__"
"""Called in the text before every block of a document: tells the executor of a heading and of the names the block binds."""


class SourceError(ValueError):
    """A file that cannot be turned into text, under ``code`` LD001 or LD004; ``line`` and ``column`` count from 1."""

    def __init__(self, message: str, line: int | None = None, column: int = 1, cell: int | None = None, code: str = "LD001") -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column
        self.cell = cell
        self.code = code


@dataclass(frozen=True, slots=True)
class Cell:
    """A code cell and the stretch of the text that it is; character for character the same length as its source.

    In a document it is a block: ``origin`` says for each of its lines where that begins in the document, and ``heading``
    whether a heading stands before it.
    """

    index: int
    start: int
    end: int
    source: str
    execution_count: int | None = None
    failed: bool = False
    origin: tuple[int, ...] = ()
    heading: bool = False
    rewrapped: bool = False


@dataclass(frozen=True)
class Source:
    """A file ready to be parsed.

    ``text`` is the module's text without a byte order mark or, for a notebook, the code cells one after another with what is
    not Python masked. Offsets are in characters of ``text``.
    """

    path: str
    kind: str
    data: bytes
    text: str
    cells: tuple[Cell, ...] = ()
    encoding: str = "utf-8"

    @classmethod
    def read(cls, path: str) -> Source:
        """The source at ``path``. Raises :class:`SourceError`."""
        try:
            data = files.read(path)
        except (OSError, ValueError) as error:
            raise SourceError(files.reason(error), code="LD004") from None
        return cls.from_bytes(path, data)

    @classmethod
    def from_bytes(cls, path: str, data: bytes) -> Source:
        """The source with these bytes; a notebook or document when ``path`` says so. Raises :class:`SourceError`."""
        if path.endswith(document.SUFFIXES):
            return _document(path, data)
        return _notebook(path, data) if path.endswith(".ipynb") else _module(path, data)

    @property
    def execution_counts(self) -> Mapping[int, int | None]:
        """For every code cell of a notebook, by index, its number in the run that was saved."""
        return {cell.index: cell.execution_count for cell in self.cells}

    def cell_of(self, offset: int) -> int | None:
        """The index, over all cells of the notebook, of the cell at ``offset``; None in a module."""
        cell = self._cell(offset)
        return cell.index if cell else None

    def location(self, start: int, end: int) -> Location:
        """Where ``text[start:end]`` stands in the file; in a notebook, in the cell it starts in."""
        cell = self._cell(start)
        if cell and cell.origin:
            return Location(self.path, Span(*self._in_document(cell, start), *self._in_document(cell, min(end, cell.end))))
        base, limit = (cell.start, max(start, cell.end)) if cell else (0, len(self.text))
        first, last = self._position(start, base), self._position(min(end, limit), base)
        return Location(self.path, Span(*first, *last), cell.index if cell else None)

    def edit(self, start: int, end: int, text: str) -> Edit:
        r"""The edit that replaces ``text[start:end]``, in the file's bytes or in those of the cell's source.

        The lines of ``text`` end in ``\n``; in the edit they end, and in a document begin, as those around them do.
        """
        cell = self._cell(start)
        if cell and cell.origin:
            whole = self.data.decode(self.encoding, "replace")
            spots = (self._origin(cell, start), self._origin(cell, end))
            first, last = (len(whole[:spot].encode(self.encoding)) for spot in spots)
            return Edit(first, last, _in_lines(text, _newline(whole, spots[0]), self._margin(cell, start, whole)), self.path)
        unit, base = (cell.source, cell.start) if cell else (self.text, 0)
        before, inside = unit[: start - base], unit[start - base : end - base]
        mark = len(BOM_UTF8) if not cell and self.data.startswith(BOM_UTF8) else 0
        first = mark + len(before.encode(self.encoding, "surrogatepass"))
        last = first + len(inside.encode(self.encoding, "surrogatepass"))
        return Edit(first, last, _in_lines(text, _newline(unit, start - base)), self.path, cell.index if cell else None)

    def offset(self, line: int, column: int) -> int:
        """The offset of a line and column (from 1) of ``text``; places outside it are moved to its edge."""
        starts = self._starts
        index = min(max(line, 1), len(starts)) - 1
        return min(starts[index] + max(column, 1) - 1, len(self.text))

    def without_cell(self, index: int) -> Source:
        """This notebook with one cell blanked out; every other place stays where it is."""
        cell = next(c for c in self.cells if c.index == index)
        blank = re.sub(r"[^\r\n]", " ", self.text[cell.start : cell.end])
        # The line that holds an indented cell would be left without a body.
        before = re.sub(r"if True:\n\Z", "0       \n", self.text[: cell.start])
        return Source(self.path, self.kind, self.data, before + blank + self.text[cell.end :], self.cells, self.encoding)

    def without_broken_cells(self) -> tuple[Source, list[SourceError]]:
        """This notebook with the cells blanked out that do not parse on their own, and where the parser gave up in each."""
        from loradoctor.lint.lower import ParseError, parse

        source, broken = self, []
        for cell in self.cells:
            text = self.text[cell.start : cell.end]
            lead = _lead(text)
            try:
                parse(lead + text)
            except ParseError as error:
                line = max(1, error.line - lead.count("\n"))
                broken.append(self._in_cell(cell, error.message, line, error.column))
                source = source.without_cell(cell.index)
        return source, broken

    def _in_cell(self, cell: Cell, message: str, line: int, column: int) -> SourceError:
        """A parse error in a cell: its lines are the cell's, those of a block are the document's."""
        if not cell.origin:
            return SourceError(message, line, column, cell.index)
        spot = cell.origin[min(line, len(cell.origin)) - 1]
        row = bisect_right(self._document_starts, spot)
        return SourceError(message, row, spot - self._document_starts[row - 1] + column)

    def _origin(self, cell: Cell, offset: int) -> int:
        """Where an offset of the text is in the document (characters)."""
        line, column = self._position(offset, cell.start)
        return cell.origin[min(line, len(cell.origin)) - 1] + column - 1

    def _margin(self, cell: Cell, offset: int, document: str) -> str:
        """What stands before the code in a line of a document: white space, the mark of a quotation or a prompt."""
        origin = self._origin(cell, offset) - self._position(offset, cell.start)[1] + 1
        return document[max(document.rfind("\n", 0, origin), document.rfind("\r", 0, origin)) + 1 : origin]

    def _in_document(self, cell: Cell, offset: int) -> tuple[int, int]:
        spot = self._origin(cell, offset)
        starts = self._document_starts
        line = bisect_right(starts, spot)
        return line, spot - starts[line - 1] + 1

    @cached_property
    def _document_starts(self) -> list[int]:
        return [0, *(m.end() for m in _NEWLINE.finditer(self.data.decode(self.encoding, "replace")))]

    def _cell(self, offset: int) -> Cell | None:
        if not self.cells:
            return None
        return self.cells[max(0, bisect_right(self.cells, offset, key=lambda c: c.start) - 1)]

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(m.end() for m in _NEWLINE.finditer(self.text))]

    def _position(self, offset: int, base: int) -> tuple[int, int]:
        line = bisect_right(self._starts, offset)
        first = bisect_right(self._starts, base)
        return line - first + 1, offset - max(self._starts[line - 1], base) + 1


def _newline(text: str, offset: int) -> str:
    """How the line at ``offset`` ends or, if it is the last, the first one."""
    found = _NEWLINE.search(text, offset) or _NEWLINE.search(text)
    return found[0] if found else "\n"


def _in_lines(text: str, newline: str, margin: str = "") -> str:
    """New text with the line ends of the old; behind a prompt, a line that carries something on gets the other prompt."""
    prompt = re.search(r">>>|\.\.\.", margin)

    def begun(found: re.Match[str]) -> str:
        if not prompt:
            return f"{newline}{margin}"
        carried = text[found.end() : found.end() + 1] in tuple(" \t#),")
        return newline + margin.replace(prompt[0], "..." if carried else ">>>")

    return re.sub(r"(?<!\r)\n", begun, text) if "\n" in text else text


def _lead(text: str) -> str:
    """What must stand before a cell: one that is indented runs in IPython, and in a module under a condition that holds."""
    return "if True:\n" if re.match(r"(?:[ \t]*(?:#[^\n]*)?\r?\n)*[ \t]+[^\s#]", text) else ""


def _module(path: str, data: bytes) -> Source:
    encoding = _declared(data)
    body = data.removeprefix(BOM_UTF8)
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise SourceError(f"the bytes are not valid {encoding}", line, code="LD004") from None
    except LookupError:
        raise SourceError(f"it declares the encoding `{encoding}`, which is unknown", 1, code="LD004") from None
    if "\0" in text:
        raise SourceError("it holds a null byte", text.count("\n", 0, text.index("\0")) + 1)
    return Source(path, "module", data, text, encoding=encoding)


def _declared(data: bytes) -> str:
    """The encoding of a Python file (PEP 263)."""
    if data.startswith(BOM_UTF8):
        return "utf-8"
    for line in data.split(b"\n", 2)[:2]:
        if found := _CODING.match(line):
            name = found[1].decode("ascii", "replace")
            try:
                codec = lookup(name)
            except LookupError:
                return name
            # Codecs such as `rot13` map text to text: Python refuses them too.
            if codec.name == "utf-8-sig":
                return "utf-8"
            return codec.name if getattr(codec, "_is_text_encoding", True) else name + " (not a text encoding)"
        if line.strip() and not line.lstrip().startswith(b"#"):
            break
    return "utf-8"


def _notebook(path: str, data: bytes) -> Source:
    from loradoctor.lint import notebook

    try:
        found = notebook.code_cells(data)
    except notebook.NotebookError as error:
        raise SourceError(error.message, error.line, error.column) from None
    parts: list[str] = []
    cells, length = [], 0
    for one in found:
        text = notebook.mask(one.source)
        lead = _lead(text)
        start = length + len(lead)
        cells.append(Cell(one.index, start, start + len(text), one.source, one.execution_count, one.failed, rewrapped=one.rewrapped))
        parts += [lead, text, "" if text.endswith("\n") else "\n"]
        length = start + len(text) + len(parts[-1])
    return Source(path, "notebook", data, "".join(parts), tuple(cells))


def _document(path: str, data: bytes) -> Source:
    text, encoding = _document_text(data)
    parts: list[str] = []
    cells: list[Cell] = []
    length = 0
    for number, block in enumerate(document.blocks(text)):
        marker = f"{BLOCK}({block.heading}, {block.fresh})\n"
        code = block.code
        start = length + len(marker)
        cells.append(Cell(number, start, start + len(code), block.text, origin=tuple(o for _, o in block.lines), heading=block.heading))
        parts += [marker, code]
        length = start + len(code)
    return Source(path, "markdown", data, "".join(parts), tuple(cells), encoding)


def _document_text(data: bytes) -> tuple[str, str]:
    """The text of a document and its encoding: prose in an old Chinese or Western one stands between lines of ASCII code."""
    if b"\0" in data:
        raise SourceError("it holds a null byte", 1, code="LD004")
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"
