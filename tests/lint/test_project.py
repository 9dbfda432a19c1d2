"""Imports between the files of a project are followed; findings name both places."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from loradoctor.config import Settings
from loradoctor.diagnostic import Report
from loradoctor.lint.module import analyse
from loradoctor.lint.run import lint
from loradoctor.lint.source import Source
from loradoctor.registry import all_rules
from tests.lint.fixture_files import FIXTURES, expected, lint_bytes, reported

PROJECTS = sorted((FIXTURES / "projects").rglob("*.py"))
SEVERITIES = {rule.code: rule.severity.value for rule in all_rules()}

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


@pytest.mark.parametrize("path", PROJECTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_what_one_script_saves_another_loads(path: Path) -> None:
    found = tuple(d for d in lint_bytes(path) if d.severity.value != "info" or d.code in path.read_text())
    assert reported(found) == expected(path, SEVERITIES)
    for diagnostic in found:
        assert any(Path(r.location.path) != path for r in diagnostic.related), "the other place is in the other script"


def test_who_is_asked_is_told(tmp_path: Path) -> None:
    write(
        tmp_path,
        models=MODELS,
        train="from models import build\nmodel = build()\nmodel.save_pretrained('out')\n",
        use="from peft import AutoPeftModelForCausalLM\nmodel = AutoPeftModelForCausalLM.from_pretrained('out')\n",
    )
    module = analyse(Source.read(str(tmp_path / "use.py")))
    assert module.consulted == frozenset()
    (load,) = module.calls("peft.AutoPeftModelForCausalLM.from_pretrained")
    assert load.arrivals[0].kept(load.arrivals[0].arg("model_id"))
    assert {Path(p).name for p in module.consulted} >= {tmp_path.name, "train.py", "use.py", "models.py"}


def test_what_comes_through_a_pipe_has_no_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from peft import AutoPeftModelForCausalLM\nm = AutoPeftModelForCausalLM.from_pretrained('merged')\n"
    write(tmp_path, merge=f"{text}m = m.merge_and_unload()\nm.save_pretrained('merged')\n".replace("'merged')\nm =", "'a')\nm ="), use=text)
    monkeypatch.chdir(tmp_path)
    assert [code for code, *_ in found(lint(["./use.py"], Settings()))] == ["LD112"]
    assert found(lint([], Settings(), stdin=("<stdin>", text.encode()))) == []


def test_a_collection_of_examples_is_no_project(tmp_path: Path) -> None:
    text = "from peft import AutoPeftModelForCausalLM\nm = AutoPeftModelForCausalLM.from_pretrained('a')\nm = m.merge_and_unload()\n"
    write(tmp_path, **{f"example{n}": f"{text}m.save_pretrained('merged{n}')\n" for n in range(13)})
    write(tmp_path, use="from peft import AutoPeftModelForCausalLM\nAutoPeftModelForCausalLM.from_pretrained('merged3')\n")
    assert found(lint([str(tmp_path / "use.py")], Settings())) == []
    (tmp_path / "example7.py").unlink()
    assert [code for code, *_ in found(lint([str(tmp_path / "use.py")], Settings()))] == ["LD112"]
