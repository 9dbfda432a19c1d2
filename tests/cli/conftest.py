import io
import sys

import pytest

from loradoctor.__main__ import main

BROKEN = "from peft import get_peft_model\nmodel = (\n"
CLEAN = "from peft import LoraConfig\n\nconfig = LoraConfig(r=8)\n"


class Result:
    """What one command line did."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A directory to work in, with a file that does not parse and one that is fine."""
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "CI", "LORADOCTOR_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "fine.py").write_text(CLEAN)
    return tmp_path


@pytest.fixture
def loradoctor(project, capsys, monkeypatch):
    """Run a command line in the project: ``loradoctor("lint", "fine.py")``."""

    def run(*argv, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            code = main([str(a) for a in argv])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run
