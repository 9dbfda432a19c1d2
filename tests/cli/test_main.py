"""The edges of the program: nothing ends in a traceback, and the exit code always means what it says."""

import os
import subprocess
import sys

import pytest

from loradoctor import __version__, cli
from loradoctor.diagnostic import Diagnostic, Location, Report, Severity


def _raise(error):
    def command(_):
        raise error

    return command


def test_an_unexpected_error_is_one_line(loradoctor, monkeypatch):
    monkeypatch.setitem(cli._COMMANDS, "lint", _raise(TypeError("no\nway \x1b[2J")))
    result = loradoctor("lint", ".")
    assert (result.code, result.out) == (2, "")
    assert result.err == "loradoctor: internal error: TypeError: no way ?[2J (LORADOCTOR_TRACEBACK=1 shows where)\n"


def test_the_trace_is_there_for_who_asks(loradoctor, monkeypatch):
    monkeypatch.setitem(cli._COMMANDS, "lint", _raise(TypeError("no way")))
    monkeypatch.setenv("LORADOCTOR_TRACEBACK", "1")
    with pytest.raises(TypeError, match="no way"):
        loradoctor("lint", ".")


def test_an_interrupt_exits_as_shells_expect(loradoctor, monkeypatch):
    monkeypatch.setitem(cli._COMMANDS, "lint", _raise(KeyboardInterrupt()))
    result = loradoctor("lint", ".")
    assert (result.code, result.out, result.err) == (130, "", "loradoctor: interrupted\n")


@pytest.fixture
def incomplete(monkeypatch):
    """Every lint run reports that a rule failed."""
    failed = Diagnostic("LD002", "check-did-not-complete", Severity.ERROR, "a rule failed", Location("a.py"), "a.py")
    monkeypatch.setattr("loradoctor.lint.run.lint", lambda *_, **__: Report(diagnostics=(failed,)))


def test_a_check_that_did_not_complete_exits_with_2(loradoctor, incomplete):
    result = loradoctor("lint", "--fail-on", "error", ".")
    assert result.code == 2
    assert "error[LD002]: a rule failed" in result.out


@pytest.mark.parametrize("form", ["json", "sarif"])
def test_then_machine_formats_leave_standard_output_empty(loradoctor, incomplete, form):
    result = loradoctor("lint", "--format", form, ".")
    assert (result.code, result.out) == (2, "")
    assert "error[LD002]: a rule failed" in result.err


def test_version(loradoctor):
    assert (loradoctor("--version").code, loradoctor("--version").out) == (0, f"loradoctor {__version__}\n")


@pytest.mark.parametrize("command", [[], ["lint"], ["check"], ["explain"], ["rules"]])
def test_help_is_worth_reading(loradoctor, command):
    result = loradoctor(*command, "--help")
    assert result.code == 0
    assert ("examples:" in result.out) is (command in ([], ["lint"], ["check"]))
    assert all(len(line) <= 120 for line in result.out.splitlines())


def _run(*argv, cwd, **options):
    command = [sys.executable, "-m", "loradoctor", *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, timeout=60, check=False, **options)


def test_a_reader_that_went_away_is_no_traceback(project):
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "loradoctor", "lint", "broken.py"],
        cwd=project,
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, b"")


def test_a_narrow_encoding_is_no_crash(project):
    (project / "modèle.py").write_text("from peft import PeftModel\nm = 'é漢' +\n", encoding="utf-8")
    result = _run("lint", "modèle.py", cwd=project, env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"})
    assert (result.returncode, result.stderr) == (1, b"")
    assert b"\\xe9\\u6f22" in result.stdout


def test_a_name_in_no_encoding_is_no_crash(project):
    name = b"mod\xe9le.py"
    try:
        (project / os.fsdecode(name)).write_text("from peft import PeftModel\nm = (\n")
    except OSError:
        pytest.skip("this file system only takes names in UTF-8")
    for form in ("text", "json", "sarif", "github"):
        result = _run("lint", "--format", form, ".", cwd=project)
        assert (form, result.returncode, result.stderr) == (form, 1, b"")
        result.stdout.decode("utf-8")
