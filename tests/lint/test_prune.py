"""Running only functions that begin something loses no finding."""

from __future__ import annotations

from pathlib import Path

import pytest

from loradoctor.lint import prune
from loradoctor.lint.module import Module, analyse
from loradoctor.lint.source import Source
from tests.lint.fixture_files import FIXTURES, lint_bytes


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.py")), ids=lambda path: path.name)
def test_nothing_is_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_pruning = lint_bytes(path)
    monkeypatch.setattr(prune, "worth_starting", lambda *_: True)
    assert with_pruning == lint_bytes(path)


def module(text: str) -> Module:
    return analyse(Source.from_bytes("a.py", text.encode()))


def test_a_function_that_only_measures_is_not_run_by_itself() -> None:
    text = "import peft\n\n\ndef count(model):\n    for p in model.parameters():\n        p.requires_grad_(False)\n"
    assert module(text.replace("requires_grad_(False)", "requires_grad = False")).stores == []


def test_it_is_run_where_a_model_is_passed_to_it() -> None:
    text = (
        "from peft import get_peft_model, LoraConfig\nfrom transformers import AutoModel\n\n\n"
        "def freeze(model):\n    for p in model.parameters():\n        p.requires_grad = False\n\n\n"
        "freeze(get_peft_model(AutoModel.from_pretrained('gpt2'), LoraConfig()))\n"
    )
    assert module(text).stores


def test_a_method_is_run_when_its_object_holds_a_model() -> None:
    text = (
        "from peft import get_peft_model, LoraConfig\nfrom transformers import AutoModel\n\n\nclass Run:\n"
        "    def __init__(self):\n        self.model = get_peft_model(AutoModel.from_pretrained('gpt2'), LoraConfig())\n\n"
        "    def stop(self):\n        for p in self.model.parameters():\n            p.requires_grad = False\n"
    )
    assert [s.name for s in module(text).stores if s.name == "requires_grad"]
