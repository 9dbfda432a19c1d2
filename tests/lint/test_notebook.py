"""Notebooks as Python, and rewritten in place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradoctor.diagnostic import Span
from loradoctor.lint import notebook
from loradoctor.lint.lower import parse
from loradoctor.lint.source import Source, SourceError


def dumped(*sources: str | list[str], indent: int | None = 1, **metadata: object) -> bytes:
    cells = [{"cell_type": "code", "execution_count": n, "metadata": {}, "outputs": [], "source": s} for n, s in enumerate(sources, 1)]
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}, indent=indent).encode()


def source(*sources: str, **metadata: object) -> Source:
    return Source.from_bytes("a.ipynb", dumped(*sources, **metadata))


@pytest.mark.parametrize(
    ("cell", "masked"),
    [
        ("x = 1\n", "x = 1\n"),
        ("!pip install peft\nx = 1", "0                \nx = 1"),
        ("%matplotlib inline", "0                 "),
        ("%time x = f()", "0;    x = f()"),
        ("%timeit -n 10 f(x)", "0;            f(x)"),
        ("%time for i in x: f(i)", "0                     "),
        ("%%time\nx = f()", "      \nx = f()"),
        ("# first\n%%capture out\nx = f()", "# first\n             \nx = f()"),
        ("%%bash\nmodel=x; if", "      \n           "),
        ("files = !ls *.py", "files = _       "),
        ("out = %sql select 1", "out = _            "),
        ("?model.fit", "0         "),
        ("model.fit??", "0          "),
        ("!pip install a \\\n  b\nx", "0               \n   \nx"),
        ("if x:\n    !ls\n    y", "if x:\n    0  \n    y"),
        ("pip install -q peft", "0                  "),
        ("cd /kaggle/working\n", "0                 \n"),
        ("\n  ls *.py", "\n  0      "),
        ("cd ..", "0    "),
        ("matplotlib inline", "0                "),
        ("/f x", "0   "),
        ("!ls\r\nx\r\n", "0  \r\nx\r\n"),
        ("os._exit(00)  # restart\nx", "0                      \nx"),
        ("if x:\n    exit()\n!ls", "if x:\n    exit()\n0  "),
    ],
)
def test_what_only_ipython_understands_is_blanked_out(cell: str, masked: str) -> None:
    assert notebook.mask(cell) == masked


@pytest.mark.parametrize(
    "cell",
    [
        'help = """\n!pip install peft\n%time x\n"""',
        "x = (7\n     % 3)",
        "x = 7 \\\n  % 3",
        "f(\n'''\n!ls''', y)",
        "x = y != z",
        "x = a % b",
        "cd = 3",
        "ls.sort()",
        "cat (x)",
        "cat / x",
        "run in runs",
        "env == x",
        "cat /x\nls = 1",
        "pip = x if y else z",
        "'is this a question?'",
        "x  # is it?",
        "text = 'a\\\n!b'",
        "x = f'{a!r}'",
        "@decorator\ndef f(): ...",
    ],
)
def test_python_that_looks_like_a_magic_stays(cell: str) -> None:
    assert notebook.mask(cell) == cell


@given(st.text(alphabet="x=()[]'\"#\\\n\r %!?mt/", max_size=40))
def test_a_mask_keeps_every_character_in_its_place(cell: str) -> None:
    masked = notebook.mask(cell)
    assert len(masked) == len(cell)
    assert [i for i, c in enumerate(masked) if c in "\r\n"] == [i for i, c in enumerate(cell) if c in "\r\n"]


def test_the_cells_follow_one_another_and_each_starts_a_line() -> None:
    made = source("x = 1", "!ls\ny = 2\n", "")
    assert made.text == "x = 1\n0  \ny = 2\n\n"
    assert made.execution_counts == {0: 1, 1: 2, 2: 3}


def test_a_location_is_local_to_its_cell_among_all_cells() -> None:
    data = json.loads(dumped("x = 1\n", "a = 1\nfail(größe)\n"))
    data["cells"].insert(0, {"cell_type": "markdown", "metadata": {}, "source": "# Title"})
    made = Source.from_bytes("a.ipynb", json.dumps(data).encode())
    start = made.text.index("größe")
    where = made.location(start, start + 5)
    assert (where.cell, where.span) == (2, Span(2, 6, 2, 11))
    assert made.cell_of(start) == 2
    edit = made.edit(start + 5, start + 6, ", b)")
    assert (edit.cell, edit.start, edit.end) == (2, len("a = 1\nfail(größe".encode()), len("a = 1\nfail(größe)".encode()))


def test_an_indented_cell_runs_as_in_ipython() -> None:
    made = source("x = 1", "  y = 2\n  z = 3")
    parse(made.text)
    start = made.text.index("z")
    assert made.location(start, start + 1).span == Span(2, 3, 2, 4)


@pytest.mark.parametrize("metadata", [{"kernelspec": {"language": "R"}}, {"language_info": {"name": "julia"}}])
def test_a_notebook_of_another_language_has_no_cells(metadata: dict[str, object]) -> None:
    assert source("x <- peft", **metadata).text == ""


def test_a_cell_that_an_editor_marks_as_of_another_language_is_passed_over() -> None:
    data = json.loads(dumped("swift sft --model x", "x = 1", "y = 2"))
    data["cells"][0]["metadata"] = {"vscode": {"languageId": "shellscript"}}
    data["cells"][1]["metadata"] = {"vscode": {"languageId": "python"}}
    assert [cell.index for cell in notebook.code_cells(json.dumps(data).encode())] == [1, 2]


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (b"", 1, "the file is empty"),
        (b'{"cells": [\n  oops]}', 2, "it is not JSON: expecting value"),
        (b"[1]", 1, "it is JSON, but not a notebook: there is no list of `cells`"),
        (b'{"cells": {}}', 1, "it is JSON, but not a notebook: there is no list of `cells`"),
        (b'{"x": "\xff"}', 1, "it is not JSON: the bytes are not UTF-8"),
        (b"[" * 100_000, 1, "it is nested too deeply"),
    ],
    ids=["empty", "broken", "list", "object", "bytes", "deep"],
)
def test_what_is_no_notebook_is_told_with_its_line(data: bytes, line: int, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        Source.from_bytes("a.ipynb", data)
    assert (caught.value.code, caught.value.line, caught.value.message) == ("LD001", line, message)


def test_odd_cells_are_passed_over() -> None:
    cells = [3, {}, {"cell_type": "raw", "source": "x"}, {"cell_type": "code"}, {"cell_type": "code", "source": ["a\n", 3, "b"]}]
    made = Source.from_bytes("a.ipynb", json.dumps({"cells": cells}).encode())
    assert [(c.index, c.source) for c in made.cells] == [(3, ""), (4, "a\nb")]


def test_a_notebook_of_format_three_is_read_and_rewritten() -> None:
    data = json.dumps({"worksheets": [{"cells": [{"cell_type": "code", "input": "x = 1", "prompt_number": 4}]}]}).encode()
    made = Source.from_bytes("a.ipynb", data)
    assert (made.cells[0].source, made.cells[0].execution_count) == ("x = 1", 4)
    assert notebook.replace_sources(data, {0: "x = 2"}) == data.replace(b"x = 1", b"x = 2")


STREAM = {"output_type": "stream", "name": "stderr", "text": ["You are trying to modify a model with PEFT for a second ", "time."]}
NESTED = {"output_type": "execute_result", "data": {"text/plain": "PeftModel(\n  (base_model): LoraModel(\n    (model): PeftModel("}}
PLAIN = {"output_type": "execute_result", "data": {"text/plain": ["PeftModel(\n", "  (base_model): LoraModel(\n", "    (model): OPT("]}}


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([STREAM], True),
        ([NESTED], True),
        ([PLAIN], False),
        ([{"data": 1}, 2, {"output_type": "stream"}], False),
        (None, False),
        ("x", False),
    ],
)
def test_stored_output_shows_a_model_wrapped_twice(outputs: object, expected: bool) -> None:
    cell = {"cell_type": "code", "execution_count": 1, "outputs": outputs, "source": "x"}
    (found,) = notebook.code_cells(json.dumps({"cells": [cell]}).encode())
    assert found.rewrapped is expected


def test_a_broken_cell_is_blanked_out_and_the_others_stay_where_they_are() -> None:
    made = source("x = 1", "y = 2\nz = (", "w = 3")
    left, broken = made.without_broken_cells()
    assert left.text == "x = 1\n     \n     \nw = 3\n"
    assert [(e.cell, e.line) for e in broken] == [(1, 2)]
    parse(left.text)


def test_a_broken_indented_cell_leaves_nothing_behind() -> None:
    left, broken = source("  x = (", "y = 1").without_broken_cells()
    assert [(e.cell, e.line) for e in broken] == [(0, 1)]
    parse(left.text)
    assert left.cell_of(left.text.index("y")) == 1


NOTEBOOK = """{
 "nbformat": 4,  "extra":{"b":1,
 "a":2},
 "cells": [
  {"cell_type": "markdown", "source": ["# caf\\u00e9"]},
  {"cell_type": "code", "source": [
    "a = 1\\n",
    "b = \\"\\u00e9\\"\\n",

    "c = 3"
   ], "outputs": [{"text": "1e400 \\ud83d"}]},
  {"source": "one = 1\\ntwo = 2", "cell_type": "code"},
  {"cell_type": "code", "source": []}
 ]
}\r\n"""


@pytest.mark.parametrize(
    ("cell", "text", "before", "after"),
    [
        (1, 'a = 10\nb = "é"\nc = 3', '"a = 1\\n"', '"a = 10\\n"'),
        (1, 'a = 1\nb = "é"\nc = 4', '"c = 3"', '"c = 4"'),
        (2, "one = 1\ntwo = 'ö'", '"one = 1\\ntwo = 2"', "\"one = 1\\ntwo = '\\u00f6'\""),
        (3, "x\ny", '"source": []', '"source": ["x\\n", "y"]'),
    ],
)
def test_only_the_literals_of_changed_lines_are_written_anew(cell: int, text: str, before: str, after: str) -> None:
    assert notebook.replace_sources(NOTEBOOK.encode(), {cell: text}).decode() == NOTEBOOK.replace(before, after)


def test_a_line_can_go_and_come() -> None:
    fewer = notebook.replace_sources(NOTEBOOK.encode(), {1: "a = 1\nc = 3"})
    assert json.loads(fewer)["cells"][1]["source"] == ["a = 1\n", "c = 3"]
    more = notebook.replace_sources(fewer, {1: "a = 1\nnew\nc = 3"})
    assert b'"a = 1\\n",\n    "new\\n",\n    "c = 3"\n   ]' in more


def test_an_unchanged_notebook_stays_byte_for_byte(tmp_path: Path) -> None:
    data = NOTEBOOK.encode()
    assert notebook.replace_sources(data, {1: 'a = 1\nb = "é"\nc = 3', 2: "one = 1\ntwo = 2"}) == data


@given(st.lists(st.text(max_size=30), max_size=3), st.text(max_size=30), st.sampled_from([None, 0, 1, 4]))
def test_a_rewritten_cell_reads_back(sources: list[str], text: str, indent: int | None) -> None:
    data = dumped(*[s.splitlines(keepends=True) for s in sources], "last", indent=indent)
    again = notebook.code_cells(notebook.replace_sources(data, {0: text}))
    assert [c.source for c in again] == [text, *[*sources, "last"][1:]]
