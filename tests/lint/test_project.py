"""Imports between the files of a project are followed; findings name both places."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from loradoctor.config import Settings
from loradoctor.diagnostic import Report
from loradoctor.lint.run import lint

MODELS = """
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    def build():
        model = AutoModelForCausalLM.from_pretrained("gpt2")
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))

    def load(path):
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("gpt2"), path)

    if __name__ == "__main__":
        build().merge_and_unload()
"""


def write(directory: Path, **files: str) -> None:
    (directory / ".git").mkdir(exist_ok=True)
    for name, text in files.items():
        path = directory / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))


def found(report: Report) -> list[tuple[str, str, int]]:
    return [(d.code, Path(d.location.path).name, d.location.span.line) for d in report.diagnostics if d.location.span]


@pytest.mark.parametrize(
    "statement",
    ["from models import build", "import models\nbuild = models.build", "from .models import build", "from models import *"],
)
def test_what_a_helper_of_another_file_returns_is_known(tmp_path: Path, statement: str) -> None:
    write(tmp_path, models=MODELS, train=f"{statement}\nfrom peft import PeftModel\nmodel = PeftModel.from_pretrained(build(), 'x')\n")
    report = lint([str(tmp_path / "train.py")], Settings())
    ((code, name, _),) = found(report)
    assert (code, name) == ("LD101", "train.py")
    (related,) = report.diagnostics[0].related
    assert Path(related.location.path).name == "models.py"
    assert related.location.span
    assert related.location.span.line == 6


def test_a_finding_about_another_file_is_anchored_where_this_one_takes_part(tmp_path: Path) -> None:
    write(
        tmp_path,
        pkg__models=MODELS,
        train="""
            from transformers import Trainer  # with peft
            from pkg.models import load
            model = load("runs/last")
            Trainer(model=model).train()
        """,
    )
    report = lint([str(tmp_path)], Settings())
    codes = {(code, name, line) for code, name, line in found(report)}
    assert ("LD104", "train.py", 4) in codes
    (finding,) = (d for d in report.diagnostics if d.code == "LD104")
    assert Path(finding.related[0].location.path).name == "models.py"
    assert finding.fix is None


def test_the_main_guard_of_an_imported_file_does_not_run(tmp_path: Path) -> None:
    write(tmp_path, models=MODELS, train="from models import build\nmodel = build()\nmodel.eval()\n")
    assert found(lint([str(tmp_path / "train.py")], Settings())) == []


def test_imports_in_a_circle_end(tmp_path: Path) -> None:
    write(
        tmp_path,
        one="from two import load\nfrom peft import get_peft_model\ndef build(m, c):\n    return get_peft_model(m, c)\n",
        two="from one import build\nfrom peft import PeftModel\ndef load(m, c):\n    return PeftModel.from_pretrained(build(m, c), 'x')\n",
    )
    report = lint([str(tmp_path)], Settings())
    assert found(report) == [("LD101", "two.py", 4)]


def test_a_broken_neighbour_is_its_own_problem(tmp_path: Path) -> None:
    write(
        tmp_path,
        models="def build(:\n    peft\n",
        train="from models import build\nfrom peft import PeftModel\nPeftModel.from_pretrained(build(), 'x')\n",
    )
    assert found(lint([str(tmp_path / "train.py")], Settings())) == []
