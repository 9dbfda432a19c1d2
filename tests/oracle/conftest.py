from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loradoctor.checkpoint import base as base_module
from loradoctor.checkpoint.run import CheckOptions, check_many
from loradoctor.diagnostic import Check, Report


class Examined:
    """A report with the questions that tests ask of it."""

    def __init__(self, report: Report) -> None:
        self.report = report

    @property
    def codes(self) -> list[str]:
        # The base of these adapters is a path of this machine, which LD525 rightly mentions every time.
        return [d.code for d in self.report.diagnostics if d.code != "LD525"]

    def check(self, name: str) -> Check:
        return next(c for c in self.report.checks if c.name == name)

    def only(self) -> Any:
        found = [d for d in self.report.diagnostics if d.code != "LD525"]
        assert len(found) == 1, [(d.code, d.message) for d in found]
        return found[0]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer requests here instead of in a child process, which costs seconds of imports each time."""

    def ask(request: dict[str, Any], **_: Any) -> dict[str, Any]:
        from loradoctor.oracle.session import serve

        return serve(request, lambda _: None)

    monkeypatch.setattr(base_module, "ask", ask)


@pytest.fixture
def examine(in_process: None) -> Callable[..., Examined]:
    def run(path: Path, **options: Any) -> Examined:
        return Examined(check_many([str(path)], CheckOptions(**options)))

    return run


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.oracle import zoo

    directory = tmp_path_factory.mktemp("base") / "llama"
    zoo.llama(directory)
    return directory


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A sound LoRA adapter on ``base``."""
    from tests.oracle import zoo

    model = zoo.llama(tmp_path_factory.mktemp("scratch"))
    return zoo.adapter(tmp_path_factory.mktemp("adapters") / "good", model, zoo.lora(), base=base)
