"""`# loradoctor: ignore[...]` comments."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from loradoctor.diagnostic import Diagnostic, Severity
from loradoctor.lint import suppress
from loradoctor.lint.source import Source


def finding(source: Source, text: str, code: str = "LD101", name: str = "adapter-on-adapter") -> Diagnostic:
    start = source.text.index(text)
    place = source.location(start, start + len(text))
    return Diagnostic(code, name, Severity.ERROR, "m", place, source.path)


def left(text: str, *marked: str, enabled: Callable[[str], bool] = lambda _: True, code: str = "LD101") -> tuple[list[str], int]:
    source = Source.from_bytes("a.py", text.encode())
    kept, silenced = suppress.apply(source, [finding(source, m, code) for m in marked], enabled)
    return [f"{d.code} {d.location.span.line if d.location.span else 0}: {d.message}" for d in kept], silenced


@pytest.mark.parametrize(
    "comment",
    [
        "# loradoctor: ignore[LD101]",
        "# loradoctor: ignore[LD101] the second wrap is what this test is about",
        "# loradoctor: ignore[adapter-on-adapter]",
        "#loradoctor:ignore[ ld101 ]",
        "# loradoctor: ignore[adapter_on_adapter]",
        "# type: ignore  # loradoctor: ignore[LD101]",
        "# loradoctor: ignore-file[LD101]",
    ],
)
def test_a_comment_on_the_line_silences_its_code(comment: str) -> None:
    assert left(f"f(x)  {comment}\n", "f(x)") == ([], 1)


@pytest.mark.parametrize("line", [0, 1, 2])
def test_any_line_of_the_span_will_do(line: int) -> None:
    lines = ["f(", "  x,", ")"]
    lines[line] += "  # loradoctor: ignore[LD101]"
    text = "\n".join(lines) + "\n"
    assert left(text, text[: text.index(")", text.index("x,")) + 1]) == ([], 1)


def test_another_line_does_not_count() -> None:
    kept, silenced = left("# loradoctor: ignore[LD101]\nf(x)\n", "f(x)")
    assert kept == ["LD101 2: m", "LD003 1: there is no `LD101` on this line to ignore"]
    assert silenced == 0


def test_another_code_does_not_count() -> None:
    kept, _ = left("f(x)  # loradoctor: ignore[LD102]\n", "f(x)")
    assert kept == ["LD101 1: m", "LD003 1: there is no `LD102` on this line to ignore"]


def test_several_codes_are_judged_one_by_one() -> None:
    assert left("f(x)  # loradoctor: ignore[LD101, LD102]\n", "f(x)") == (["LD003 1: there is no `LD102` on this line to ignore"], 1)


def test_a_whole_file_can_be_silenced_from_anywhere_in_it() -> None:
    assert left("f(x)\ng(x)\n# loradoctor: ignore-file[LD101] generated\n", "f(x)", "g(x)") == ([], 2)


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("# loradoctor: ignore", "`ignore` names no code"),
        ("# loradoctor: ignore because", "`ignore` names no code"),
        ("# loradoctor: ignore[]", "`ignore` names no code"),
        ("# loradoctor: ignore-file", "`ignore-file` names no code"),
        ("# loradoctor: ignore[LD101", "`ignore` names no code"),
        ("# loradoctor: ignore[LD9999]", "no rule is called `LD9999`"),
        ("# loradoctor: ignore-file[LD102]", "there is no `LD102` on this file to ignore"),
    ],
)
def test_what_silences_nothing_is_told(comment: str, message: str) -> None:
    kept, silenced = left(f"f(x)  {comment}\n", "f(x)")
    assert (kept, silenced) == (["LD101 1: m", f"LD003 1: {message}"], 0)


def test_what_is_unused_is_told_at_the_code_itself() -> None:
    source = Source.from_bytes("a.py", b"x = 1  # loradoctor: ignore[LD101,LD102]\n")
    kept, _ = suppress.apply(source, [], lambda _: True)
    spans = [d.location.span for d in kept]
    assert [source.text[s.column - 1 : s.end_column - 1] for s in spans if s] == ["LD101", "LD102"]


def test_a_code_that_this_run_did_not_look_for_is_not_unused() -> None:
    assert left("x  # loradoctor: ignore[LD102]\n", enabled=lambda code: code != "LD102") == ([], 0)


def test_unused_ones_are_told_only_where_that_is_wanted() -> None:
    assert left("x  # loradoctor: ignore[LD102]\n", enabled=lambda code: code != "LD003") == ([], 0)


def test_an_unused_suppression_can_itself_be_kept() -> None:
    assert left("x  # loradoctor: ignore[LD102, LD003] for the older version\n") == ([], 1)


@pytest.mark.parametrize(
    "text",
    [
        's = "# loradoctor: ignore[LD101]"; f(x)\n',
        's = """\n# loradoctor: ignore[LD101]\n"""\nf(x)\n',
        "s = '\\'# loradoctor: ignore[LD101]'; f(x)\n",
    ],
    ids=["string", "triple-quoted", "escaped quote"],
)
def test_a_string_is_not_a_comment(text: str) -> None:
    line = text[: text.index("f(x)")].count("\n") + 1
    assert left(text, "f(x)") == ([f"LD101 {line}: m"], 0)


def test_a_comment_after_strings_is_one() -> None:
    assert left("""f('#', "it's", '''"''')  # loradoctor: ignore[LD101]\n""", "f(") == ([], 1)


def test_a_notebook_is_silenced_cell_by_cell() -> None:
    def cell(text: str) -> dict[str, object]:
        return {"cell_type": "code", "source": text, "outputs": []}

    data = {"cells": [cell("f(x)  # loradoctor: ignore[LD101]\n"), cell("%time g(x)\n"), cell("# loradoctor: ignore[LD102]")]}
    source = Source.from_bytes("a.ipynb", json.dumps(data).encode())
    kept, silenced = suppress.apply(source, [finding(source, "f(x)"), finding(source, "g(x)")], lambda _: True)
    assert silenced == 1
    assert [(d.code, d.location.cell) for d in kept] == [("LD101", 1), ("LD003", 2)]
