"""Files as text, and places in the text as places in the file."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from loradoctor.diagnostic import Span
from loradoctor.fixes import apply
from loradoctor.lint.source import Source, SourceError


def module(data: bytes) -> Source:
    return Source.from_bytes("a.py", data)


def failure(data: bytes, path: str = "a.py") -> SourceError:
    with pytest.raises(SourceError) as caught:
        Source.from_bytes(path, data)
    return caught.value


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("x = 'ß'\n".encode(), "x = 'ß'\n"),
        (codecs.BOM_UTF8 + b"x = 1\r\n", "x = 1\r\n"),
        ("# -*- coding: latin-1 -*-\nx = 'ß'\n".encode("latin-1"), "# -*- coding: latin-1 -*-\nx = 'ß'\n"),
        ("#!/usr/bin/env python\n# vim: set fileencoding=cp1252 :\nx = '€'\n".encode("cp1252"), None),
        ("x = 1\n# coding: latin-1\ny = 'ß'\n".encode(), "x = 1\n# coding: latin-1\ny = 'ß'\n"),
        ("# coding: utf-8-sig\nx = 'ß'\n".encode(), "# coding: utf-8-sig\nx = 'ß'\n"),
        (b"", ""),
    ],
    ids=["utf-8", "byte order mark, CRLF", "latin-1", "second line", "too late to count", "utf-8-sig", "empty"],
)
def test_a_module_is_decoded_as_python_would(data: bytes, text: str | None) -> None:
    source = module(data)
    assert source.kind == "module"
    assert source.text == text if text is not None else "€" in source.text


@pytest.mark.parametrize(
    ("data", "code", "line", "message"),
    [
        (b"x = 1\ny = '\xff'\n", "LD004", 2, "the bytes are not valid utf-8"),
        (b"# coding: martian\n", "LD004", 1, "it declares the encoding `martian`, which is unknown"),
        (b"# coding: rot13\n", "LD004", 1, "it declares the encoding `rot13 (not a text encoding)`, which is unknown"),
        (b"x = 1\n\0\n", "LD001", 2, "it holds a null byte"),
    ],
)
def test_what_is_no_text_is_told_with_its_line(data: bytes, code: str, line: int, message: str) -> None:
    error = failure(data)
    assert (error.code, error.line, error.message) == (code, line, message)


def test_a_missing_file_is_told() -> None:
    with pytest.raises(SourceError, match="there is no such file or directory") as caught:
        Source.read("no/such/file.py")
    assert caught.value.code == "LD004"


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_location_counts_lines_and_characters_from_one(newline: str) -> None:
    text = newline.join(["größe = 1", "f(x)", ""])
    source = module(text.encode())
    start = text.index("f(x)")
    assert source.location(start, start + 4).span == Span(2, 1, 2, 5)
    assert source.location(0, 5).span == Span(1, 1, 1, 6)
    assert source.location(8, start + 1).span == Span(1, 9, 2, 2)


def test_form_feeds_and_line_separators_end_no_line() -> None:
    text = "x = '\x0c\u2028'\ny\n"
    assert module(text.encode()).location(len(text) - 2, len(text) - 1).span == Span(2, 1, 2, 2)


@pytest.mark.parametrize(
    ("encoding", "head"),
    [("utf-8", b""), ("utf-8", codecs.BOM_UTF8), ("latin-1", b"# coding: latin-1\n")],
    ids=["utf-8", "mark", "latin-1"],
)
def test_an_edit_is_in_bytes_of_the_file(encoding: str, head: bytes) -> None:
    data = head + "größe = alt\n".encode(encoding)
    source = module(data)
    start = source.text.index("alt")
    assert apply(data, [source.edit(start, start + 3, "neu")]) == head + "größe = neu\n".encode(encoding)


def test_an_edit_keeps_to_the_newlines_of_the_file() -> None:
    source = module(b"a\r\nb\r\n")
    assert source.edit(3, 4, "x\ny").text == "x\r\ny"


def test_an_offset_is_the_inverse_of_a_location() -> None:
    source = module(b"ab\ncd\n")
    assert source.offset(2, 2) == 4
    assert source.offset(99, 99) == 6
    assert source.offset(0, 0) == 0


def test_a_file_is_read_from_disk(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"x = 1\n")
    assert Source.read(str(tmp_path / "a.py")).text == "x = 1\n"
