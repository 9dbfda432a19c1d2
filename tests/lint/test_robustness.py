"""Code nobody would write: it gets a report, soon, and what cannot be looked at is told with its place."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from benchmarks.lint_robustness import DEEP, mutated
from loradoctor.diagnostic import Diagnostic
from loradoctor.lint import lower_cst
from loradoctor.lint.depth import deepest, too_deep
from loradoctor.lint.lower import ParseError
from loradoctor.lint.pipeline import Pipeline
from tests.lint.fixture_files import FIXTURES

# What takes more than half a second is left to benchmarks/lint_robustness.py.
LONG = {
    *("adapters", "blank_lines", "bytes_10_mb", "cases", "class_cycle", "classes", "comment_10_mb", "comments", "decorators", "dict_1_mb"),
    *("docstring_10_mb", "f_string_fields", "functions", "globals", "hex_1_mb", "keywords", "lines", "list_1_mb", "models", "number_1_mb"),
    *("one_line_ifs", "parameters", "semicolons", "stars", "string_10_mb", "strings", "suppressions", "targets", "tuples_nested_by_assignment"),
    *("branches", "loops", "elifs", "mutual_recursion", "star_imports", "excepts", "format_percent", "or_case", "nested_functions", "nested_ifs"),
    *("assignments", "elses", "joined_paths", "strings_added", "dicts_nested_by_assignment"),
}


def look(text: str | bytes, name: str = "a.py") -> tuple[Diagnostic, ...]:
    return Pipeline().examine(name, text.encode() if isinstance(text, str) else text).diagnostics


@pytest.mark.parametrize("name", sorted(DEEP.keys() - LONG))
def test_what_no_one_would_write_gets_a_report(name: str) -> None:
    begin = time.process_time()
    for found in look(DEEP[name]()):
        assert found.code != "LD002", found.message
        assert found.location.span, f"{found.code} does not say where"
    assert time.process_time() - begin < 10


@pytest.mark.parametrize(
    "text",
    [
        "f = lambda n: 1 if n == 0 else n * f(n - 1)\nf(3)\n",
        "f = lambda f: f(f)\nf(f)\n",
        "import functools\ng = lambda x: functools.partial(x, x)()\ng(g)\n",
        "def f(g):\n    return g(g)\nf(f)\n",
        "def f():\n    yield from f()\nlist(f())\n",
        "def f(x):\n    return [f(y) for y in x]\nf([f])\n",
        "def f(x):\n    with f(x): pass\nf(1)\n",
        "def d(f):\n    return d(d)\n@d\ndef g(): pass\n",
        "class A(A): pass\nA()\n",
        "class A:\n    x = property(lambda self: self.x)\nA().x\n",
        "class A:\n    @property\n    def x(self): return self.x\nA().x\n",
        "class A:\n    def __getattr__(self, name): return self.y\nA().x\n",
        "class A:\n    def __call__(self, a): return a(a)\na = A()\na(a)\n",
        "x = [1]\nx.append(x)\ny = {'a': x}\ny['a'] = y\nprint(x == y)\n",
    ],
)
def test_what_calls_or_holds_itself_ends(text: str) -> None:
    assert look(f"import peft\n{text}") == ()


@pytest.mark.parametrize("text", ["isinstance(x, ())", "issubclass(X, ())", "match x:\n    case ():\n        y()"])
def test_what_is_asked_of_nothing_has_an_answer(text: str) -> None:
    assert look(f"import peft\n{text}\n") == ()


def test_growth_without_end_is_given_up() -> None:
    grow = "x = os.path.join(x, x) + f'{x}{x}'\ny = y + y\ny.extend(y)\nz = {**z, **z}\nz.update(z)\n"
    text = "import os\nx = 'a'\ny = [1]\nz = {'a': 1}\n" + grow * 40
    begin = time.process_time()
    assert look(text) == ()
    assert time.process_time() - begin < 10


def test_what_is_nested_too_deeply_is_told_with_its_line() -> None:
    text = "a = (1)\nb = [\n  2,\n  " + "[" * 300 + "]" * 300 + "\n]\n"
    assert [(d.code, d.location.span and d.location.span.line) for d in look(text)] == [("LD001", 4)]
    assert (too_deep(text), deepest(text)) == (4, 4)


def test_a_space_that_only_one_parser_misses_hides_nothing() -> None:
    text = "from peft import PeftModel\nm = PeftModel.from_pretrained(base, 'a')\nprint(f'{PeftModel.from_pretrained(m, 1)}', m or.5)\n"
    assert [(d.code, d.location.span and d.location.span.line) for d in look(text)] == [("LD101", 3)]
    with pytest.raises(ParseError) as told:
        lower_cst.parse(text)
    assert (told.value.line, text.splitlines()[2][told.value.column - 1 :]) == (3, "or.5)")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("y = 'a", "unterminated string"),
        ("if y:\n    a\n  b", "unindent"),
        ("y = 08", "leading zeros"),
        ("y = \u2500", "invalid character"),
        ('y = """\na', "unterminated triple-quoted string"),
        ("if y:\n\ta\n        b", "inconsistent use of tabs"),
    ],
)
def test_what_cannot_be_cut_into_tokens_is_told_with_its_line_and_reason(wrong: str, words: str) -> None:
    (found,) = look(f"import peft\n\n{wrong}\n")
    assert found.code == "LD001"
    assert words in found.message
    assert found.location.span
    assert found.location.span.line >= 3


def test_what_only_the_analysis_finds_too_deep_is_told_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def recurse(_: object) -> object:
        raise RecursionError

    found = Pipeline(analyse=recurse).examine("a.py", b"a = 1\nb = f(g(h(1)))\nc = 2\n").diagnostics
    assert [(d.code, d.location.span and d.location.span.line) for d in found] == [("LD002", 2)]


@pytest.mark.parametrize("path", sorted(p for p in FIXTURES.glob("*") if p.is_file())[::9], ids=lambda p: p.name)
def test_a_damaged_file_gets_a_report(path: Path) -> None:
    rng = random.Random(path.name)
    for number in range(6):
        data = mutated(path.read_bytes(), rng)
        wrong = [d for d in look(data, f"{number}{path.suffix}") if d.code == "LD002"]
        assert wrong == [], data
