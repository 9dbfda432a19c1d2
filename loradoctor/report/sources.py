"""The lines a finding points at, read back from the file as its author wrote them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from loradoctor.diagnostic import Location

_LINE_END = re.compile(r"\r\n|\r|\n")
_LIMIT = 64 << 20
_UNREADABLE = (OSError, ValueError, LookupError, SyntaxError, RecursionError, TypeError, AttributeError)


class Sources:
    """Lines of source files and notebook cells by location; a file that cannot be read has none.

    ``given`` holds the text of inputs that are in no file (standard input).
    """

    def __init__(self, given: Mapping[str, bytes] | None = None) -> None:
        self._given = dict(given or {})
        self._files: dict[str, list[list[str]]] = {}

    def lines(self, location: Location) -> list[str]:
        """The lines of the file, or of the notebook cell, that ``location`` is in."""
        cells = self._files.get(location.path)
        if cells is None:
            cells = self._files[location.path] = self._read(location.path)
        index = location.cell or 0
        return cells[index] if index < len(cells) else []

    def line(self, location: Location) -> str | None:
        """The first line that ``location`` spans."""
        lines = self.lines(location) if location.span else []
        return lines[location.span.line - 1] if location.span and 0 < location.span.line <= len(lines) else None

    def file_line(self, location: Location) -> int | None:
        """The line of the file itself, also where ``location`` counts in a cell of a notebook."""
        if location.cell is None or not location.span:
            return location.span.line if location.span else None
        from loradoctor.lint.notebook import file_line

        try:
            return file_line(self._data(location.path), location.cell, location.span.line)
        except _UNREADABLE:
            return None

    def _data(self, path: str) -> bytes:
        given = self._given.get(path)
        if given is not None:
            return given
        # Plain open: importing pathlib would cost a report more than reading the file does.
        with open(path, "rb") as file:
            return file.read(_LIMIT)

    def _read(self, path: str) -> list[list[str]]:
        try:
            data = self._data(path)
            if path.endswith(".ipynb"):
                return [_LINE_END.split(cell) for cell in _cells(data)]
            return [_LINE_END.split(_decode(data))]
        except _UNREADABLE:
            # Whatever is wrong with the file, it was said in a finding of its own; here there is just nothing to show.
            return []


def _decode(data: bytes) -> str:
    import io
    import tokenize

    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return data.decode(encoding, "replace")


def _cells(data: bytes) -> list[str]:
    import json

    notebook = json.loads(data.decode("utf-8-sig"))
    cells = notebook["cells"] if "cells" in notebook else [c for w in notebook["worksheets"] for c in w["cells"]]
    return [_text(cell.get("source", cell.get("input", ""))) for cell in cells]


def _text(source: object) -> str:
    return "".join(str(line) for line in source) if isinstance(source, list) else str(source)
