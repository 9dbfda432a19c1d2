"""From paths to a report."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loradoctor.config import Settings
from loradoctor.diagnostic import Finding, Location, Report, Severity
from loradoctor.lint import files, lower_ast, parallel, pipeline, run
from loradoctor.lint.run import lint
from loradoctor.lint.source import Source
from loradoctor.rule import Rule, rule
from tests.lint import stand_ins
from tests.lint.stand_ins import analysed, replacing

BUG = "from peft import PeftModel\n\nmodel = PeftModel.from_pretrained(base, 'a')\nmodel.disable_adapter()\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def brief(report: Report) -> list[str]:
    return [f"{d.location.path} {d.location.span.line if d.location.span else '-'} {d.code}" for d in report.diagnostics]


def test_what_is_found_is_reported_in_order_with_its_files(here: Path) -> None:
    for name in ("b.py", "a.py"):
        (here / name).write_text(BUG)
    (here / "plain.py").write_text("print('no word of it')\n")
    report = lint(["."], Settings())
    assert brief(report) == ["a.py 4 LD208", "b.py 4 LD208"]
    assert [(s.path, s.kind) for s in report.subjects] == [("a.py", "module"), ("b.py", "module")]


def test_standard_input_goes_by_its_file_name() -> None:
    cell = {"cell_type": "code", "source": BUG, "outputs": []}
    report = lint([], Settings(), stdin=("note.ipynb", json.dumps({"cells": [cell]}).encode()))
    assert [(d.code, d.location.cell, d.location.path) for d in report.diagnostics] == [("LD208", 0, "note.ipynb")]
    assert [s.kind for s in report.subjects] == ["notebook"]


@pytest.mark.parametrize(
    ("settings", "codes"),
    [
        (Settings(), ["LD208"]),
        (Settings(select=frozenset({"LD101"})), []),
        (Settings(ignore=frozenset({"LD208"})), []),
        (Settings(per_path_ignores={"a.py": frozenset({"LD208"})}), []),
        (Settings(per_path_ignores={"b.py": frozenset({"LD208"})}), ["LD208"]),
    ],
)
def test_settings_say_what_is_looked_for(here: Path, settings: Settings, codes: list[str]) -> None:
    (here / "a.py").write_text(BUG)
    assert [d.code for d in lint(["a.py"], settings).diagnostics] == codes


def test_a_suppressed_finding_is_counted(here: Path) -> None:
    (here / "a.py").write_text(BUG.rstrip() + "  # loradoctor: ignore[LD208] on purpose\n")
    report = lint(["a.py"], Settings())
    assert (report.diagnostics, report.suppressed) == ((), 1)


def test_a_suppression_in_a_file_without_other_words_is_still_judged(here: Path) -> None:
    (here / "a.py").write_text("x = 1  # loradoctor: ignore[LD208]\n")
    assert brief(lint(["a.py"], Settings())) == ["a.py 1 LD003"]


def test_a_code_ignored_for_the_path_is_not_an_unused_suppression(here: Path) -> None:
    (here / "a.py").write_text("x = 1  # loradoctor: ignore[LD208]\n")
    assert brief(lint(["a.py"], Settings(per_path_ignores={"*.py": frozenset({"LD208"})}))) == []


@pytest.mark.parametrize(
    ("data", "line", "code"),
    [
        (b"import peft\nprint 'hello'\n", 2, "LD001"),
        (b"import peft\n<<<<<<< HEAD\n", 2, "LD001"),
        (b"import peft\nx = '\xe9'\n", 2, "LD004"),
        (b"import peft\0\n", 1, "LD001"),
    ],
    ids=["python 2", "merge conflict", "encoding", "null byte"],
)
def test_what_does_not_parse_is_told_with_its_line_and_is_no_subject(here: Path, data: bytes, line: int, code: str) -> None:
    (here / "a.py").write_bytes(data)
    report = lint(["a.py"], Settings())
    assert brief(report) == [f"a.py {line} {code}"]
    assert report.subjects == ()
    assert report.diagnostics[0].help == "nothing in it was checked"
    assert "error at" not in report.diagnostics[0].message


def test_what_was_not_checked_is_told_whatever_is_selected(here: Path) -> None:
    (here / "a.py").write_text("import peft\nx = (\n")
    assert len(lint(["a.py", "missing.py"], Settings(select=frozenset({"LD101"}))).diagnostics) == 2
    assert brief(lint(["a.py"], Settings(ignore=frozenset({"LD001"})))) == []


def test_a_broken_cell_is_told_and_the_others_are_checked(here: Path) -> None:
    cells = ["import peft", "x = (\ny = ", BUG, "z = 1 \\"]
    (here / "a.ipynb").write_text(json.dumps({"cells": [{"cell_type": "code", "source": s} for s in cells]}))
    report = lint(["a.ipynb"], Settings())
    assert [(d.location.cell, d.location.span.line if d.location.span else 0, d.code) for d in report.diagnostics] == [
        (1, 2, "LD001"),
        (2, 4, "LD208"),
        (3, 1, "LD001"),
    ]
    assert report.diagnostics[0].help == "this cell was not checked, the others were"
    assert [s.kind for s in report.subjects] == ["notebook"]


def test_a_missing_file_is_told(here: Path) -> None:
    report = lint(["missing.py"], Settings())
    assert [(d.code, d.message) for d in report.diagnostics] == [("LD004", "the file cannot be read: there is no such file or directory")]


# -- what must not end the run


def examined(analyse: object, *rules: Rule[Source], text: str = "import peft\n") -> Report:
    return pipeline.Pipeline(Settings(), analyse, rules).examine("a.py", text.encode())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RecursionError("maximum"), "its code is nested too deeply"), (KeyError("x"), "KeyError: 'x'"), (MemoryError(), "MemoryError: ")],
)
def test_an_analysis_that_fails_is_told(error: Exception, reason: str) -> None:
    def fails(_: Source) -> object:
        raise error

    report = examined(fails)
    assert [(d.code, d.message) for d in report.diagnostics] == [("LD002", f"the file could not be analysed: {reason}")]
    assert report.subjects == ()


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "(" * 3000 + ")" * 3000,
        "x = " + "-" * 20000 + "1",
        "x = " + "1 + " * 20000 + "1",
        "x = (" + "1 +\n" * 20000 + "1)",
        "x = a" + "[0]" * 20000,
        "x = a" + ".b" * 5000,
        "x = " + "lambda: " * 20000 + "1",
        "x = " + "1 if y else " * 20000 + "2",
        "if x: pass\n" + "elif y: pass\n" * 20000,
        "f(" * 190 + ")" * 190,
        "x = " + "1 + " * 2000 + "1",
    ],
    ids=["brackets", "signs", "sums", "lines", "subscripts", "attributes", "lambdas", "conditions", "branches", "calls", "a long sum"],
)
def test_deeply_nested_code_ends_in_a_report(text: str) -> None:
    report = lint([], Settings(), stdin=("a.py", f"import peft\n{text}\n".encode()))
    assert {d.code for d in report.diagnostics} <= {"LD001", "LD002"}


def test_long_code_that_is_not_deep_is_checked() -> None:
    text = BUG + "x = [\n" + "    (1 + 2, -3, 'a(b' 'c', f(x).y[0]),\n" * 600 + "]\n" + "y = a.b\n" * 1500
    assert [d.code for d in lint([], Settings(), stdin=("a.py", text.encode())).diagnostics] == ["LD208"]


def test_an_analysis_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIME_LIMIT", 0.05)
    report = examined(lambda _: sum(1 for _ in iter(int, 1)))  # for ever
    message = "the file could not be analysed: TimeoutError: it took more than 0.05 seconds of processor time"
    assert [d.message for d in report.diagnostics] == [message]
    assert signal.getsignal(signal.SIGVTALRM) is signal.SIG_DFL


def test_an_alarm_of_somebody_else_is_left_alone() -> None:
    def theirs(*_: object) -> None: ...

    signal.signal(signal.SIGVTALRM, theirs)
    try:
        examined(analysed)
        assert signal.getsignal(signal.SIGVTALRM) is theirs
    finally:
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)


# -- many files


def many(here: Path, count: int = run.ENOUGH_FOR_PROCESSES + 5) -> list[str]:
    for number in range(count):
        (here / f"{number:02}.py").write_text(BUG + "\n" * (number % 3))
    (here / "plain.py").write_text("x = 1\n")
    return [f"{number:02}.py 4 LD208" for number in range(count)]


def test_many_files_give_the_same_report_as_one_by_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = many(here)
    together = lint(["."], Settings())
    monkeypatch.setattr(run, "ENOUGH_FOR_PROCESSES", 10_000)
    assert brief(together) == expected
    assert together == lint(["."], Settings())


def test_other_processes_do_the_work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many(here)
    monkeypatch.setattr(parallel, "_processors", lambda: 2)
    if parallel._method() != "fork":
        pytest.skip("no fork here")
    told = [(path, files.read(path)) for path in files.find(["."], Settings()).files[:-1]]

    @rule("LD901", Severity.ERROR)
    def where(_: object) -> Iterator[Finding]:
        """Say where this runs."""
        yield Finding(str(os.getpid()), Location("a.py"))

    monkeypatch.setattr(pipeline.Pipeline, "_rules", lambda _: (where,))
    outcomes = list(parallel.each(pipeline.Pipeline(Settings()), told))
    assert str(os.getpid()) not in {d.message for o in outcomes if o.report for d in o.report.diagnostics}


def test_a_process_that_dies_is_told_for_its_file_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = many(here)
    monkeypatch.setattr(parallel, "_processors", lambda: 2)
    if parallel._method() != "fork":
        pytest.skip("no fork here")
    real = pipeline.Pipeline.examined

    def deadly(self: pipeline.Pipeline, path: str, data: bytes) -> pipeline.Outcome:
        if path == "07.py":
            os._exit(1)
        return real(self, path, data)

    monkeypatch.setattr(pipeline.Pipeline, "examined", deadly)
    report = lint(["."], Settings())
    assert brief(report) == sorted([*(e for e in expected if not e.startswith("07")), "07.py - LD002"])
    assert "process that analysed this file died" in next(d.message for d in report.diagnostics if d.code == "LD002")


@pytest.mark.parametrize("enough", [run.ENOUGH_FOR_PROCESSES, 10_000])
def test_no_file_is_read_twice(here: Path, monkeypatch: pytest.MonkeyPatch, enough: int) -> None:
    for number in range(run.ENOUGH_FOR_PROCESSES + 5):
        (here / f"{number}.py").write_text("import peft\n\nmodel.disable_adapter()\n")
    monkeypatch.setattr(run, "ENOUGH_FOR_PROCESSES", enough)
    monkeypatch.setattr(parallel, "_processors", lambda: 1)
    read: list[str] = []
    real = files.read
    monkeypatch.setattr(files, "read", lambda path: (read.append(path), real(path))[1])
    lint(["."], Settings())
    assert sorted(read) == sorted(set(read))


def test_a_second_run_sees_what_has_changed_around_a_file(here: Path) -> None:
    (here / "use.py").write_text("from helper import build\n\nmodel = build()\nmodel.disable_adapter()\n# peft\n")
    assert brief(lint(["use.py"], Settings())) == []
    helper = "from peft import PeftModel\n\n\ndef build():\n    return PeftModel.from_pretrained(base, 'a')\n"
    (here / "helper.py").write_text(helper)
    assert brief(lint(["use.py"], Settings())) == ["use.py 4 LD208"]


def test_what_has_no_room_is_read_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = many(here)
    monkeypatch.setattr(run, "HELD", 3 * len(BUG))
    assert brief(lint(["."], Settings())) == expected


def test_a_file_is_parsed_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "a.py").write_text(BUG)
    (here / "plain.py").write_text("x = 1\n")
    parsed: list[str] = []
    real = lower_ast.parse
    monkeypatch.setattr(lower_ast, "parse", lambda text: (parsed.append(text), real(text))[1])
    lint(["."], Settings())
    assert parsed == [BUG]


def test_without_processes_one_is_enough(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = many(here)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no semaphores here")

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", refuse)
    assert brief(lint(["."], Settings())) == expected


def test_no_process_is_forked_from_a_process_with_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert parallel._method() != "fork"
    finally:
        done.set()
        thread.join()


def test_stand_ins_report_places_in_the_text() -> None:
    report = stand_ins.pipeline(replacing("LD901", "b", "c")).examine("a.py", b"a\nb\n")
    assert brief(report) == ["a.py 2 LD901"]
