"""Lines of notebooks in the file itself."""

import json

import pytest

from loradoctor.diagnostic import Location, Span
from loradoctor.report.sources import Sources

CELLS = [{"source": ["a\n", "b\n", "c"]}, {"source": "one\ntwo"}, {"source": []}]


def _file_line(text, cell, line):
    return Sources({"x.ipynb": text.encode()}).file_line(Location("x.ipynb", Span(line, 1, line, 2), cell=cell))


@pytest.mark.parametrize(("cell", "line", "holds"), [(0, 1, '"a\\n"'), (0, 3, '"c"'), (1, 1, '"one'), (1, 2, '"one')])
def test_the_line_that_holds_a_line_of_a_cell(cell, line, holds):
    text = json.dumps({"metadata": {"x": [1, 2]}, "cells": CELLS}, indent=1)
    assert holds in text.splitlines()[_file_line(text, cell, line) - 1]


@pytest.mark.parametrize(("text", "cell", "line"), [("{}", 0, 1), ("nonsense", 0, 1), (json.dumps({"cells": CELLS}), 2, 1), ("", 0, 9)])
def test_no_such_line(text, cell, line):
    assert _file_line(text, cell, line) is None


def test_a_line_of_a_file_is_itself():
    assert Sources().file_line(Location("a.py", Span(7, 1, 8, 2))) == 7


def test_a_place_without_a_span_has_no_line():
    assert Sources().file_line(Location("a.ipynb", cell=1)) is None
