"""The Python in documents: where blocks begin and end, what carries over between them, and where findings stand."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from loradoctor.config import Settings
from loradoctor.diagnostic import Severity
from loradoctor.lint.document import blocks
from loradoctor.lint.rewrite import fix
from loradoctor.lint.run import lint

WRAP = 'model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig())'
LOAD = 'again = PeftModel.from_pretrained(model, "runs/last")'


def codes(tmp_path: Path, text: str, name: str = "guide.md") -> list[tuple[str, int]]:
    path = tmp_path / name
    path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    report = lint([str(path)], Settings())
    return [(d.code, d.location.span.line) for d in report.diagnostics if d.location.span]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```python\na = 1\n```\n", ["a = 1\n"]),
        ("```{python}\na = 1\n```\n", ["a = 1\n"]),
        ("~~~py\na = 1\n~~~\n", ["a = 1\n"]),
        ("```\nimport a\n```\n", ["import a\n"]),
        ("```\n$ pip install a\n```\n", []),
        ("```bash\nimport a\n```\n", []),
        ("- item\n\n  ```python\n  a = 1\n    \n  b = 2\n  ```\n", ["a = 1\n  \nb = 2\n"]),
        ("```bash\nls\n```python\na = 1\n```\n", ["a = 1\n"]),
        ("```python\na = 1\n", ["a = 1\n"]),
        ("````markdown\n```python\na = 1\n```\n````\n", []),
        (">>> a = 1\n>>> if a:\n...     b = 2\n3\n\ntext\n", ["a = 1\nif a:\n    b = 2\n"]),
        ("```pycon\n>>> a = 1\n1\n```\n", ["a = 1\n"]),
        (".. code-block:: python\n   :linenos:\n\n   a = 1\n\n   b = 2\n\nText.\n", ["a = 1\n\nb = 2\n\n"]),
        ("In [3]:\nimport a\nb = a.c()\nOut[3]:\n5\nIn [4]: d = b()\n", ["\nimport a\nb = a.c()\n", "d = b()\n"]),
    ],
)
def test_blocks(text: str, expected: list[str]) -> None:
    assert [b.text for b in blocks(text)] == expected


def test_names_and_models_carry_over_to_a_block_that_only_uses_them(tmp_path: Path) -> None:
    assert codes(tmp_path, f"```python\n{WRAP}\n```\nThen:\n```python\n{LOAD}\n```\n") == [("LD101", 6)]


def test_a_block_that_binds_the_name_itself_starts_afresh(tmp_path: Path) -> None:
    assert codes(tmp_path, f"```python\n{WRAP}\n```\nOr:\n```python\n{LOAD.replace('again', 'model')}\n```\n") == []


def test_a_name_that_nothing_binds_is_another_model_in_each_block(tmp_path: Path) -> None:
    wrap = "peft_model = get_peft_model(model, LoraConfig())"
    assert codes(tmp_path, f"```python\n{wrap}\n```\nOr:\n```python\n{wrap}\n```\n") == []


@pytest.mark.parametrize("heading", ["## Loading", "Loading\n-------"])
def test_a_heading_parts_models(tmp_path: Path, heading: str) -> None:
    assert codes(tmp_path, f"```python\n{WRAP}\n```\n\n{heading}\n\n```python\n{LOAD}\n```\n") == []


def test_an_unparsable_block_is_information_and_the_others_run(tmp_path: Path) -> None:
    path = tmp_path / "guide.md"
    path.write_text(f"```python\n{WRAP}\n{LOAD}\n```\n\n```python\nmodel = <your model>\n```\n")
    report = lint([str(path)], Settings())
    assert [(d.code, d.severity) for d in report.diagnostics] == [("LD101", Severity.ERROR), ("LD001", Severity.INFO)]
    assert report.diagnostics[1].location.span
    assert report.diagnostics[1].location.span.line == 7


def test_positions_are_the_documents(tmp_path: Path) -> None:
    path = tmp_path / "anleitung.md"
    path.write_text(f"# Übung 🙂\n\n1. Zuerst\n   ```python\n   {WRAP}\n   {LOAD}\n   ```\n", encoding="utf-8")
    (finding,) = lint([str(path)], Settings()).diagnostics
    span = finding.location.span
    assert span
    line = path.read_text(encoding="utf-8").splitlines()[span.line - 1]
    assert line[span.column - 1 : span.end_column - 1] == 'PeftModel.from_pretrained(model, "runs/last")'
    assert finding.location.cell is None


def test_a_fix_changes_only_its_place(tmp_path: Path) -> None:
    path = tmp_path / "guide.md"
    before = f"Ünd so 🙂:\r\n\r\n> 1. ```python\r\n{WRAP}\r\nmodel.merge_and_unload()\r\nmodel.save_pretrained('x')\r\n```\r\n"
    path.write_bytes(before.encode())
    fix([str(path)], Settings(), unsafe=False, diff=False)
    assert path.read_bytes().decode() == before.replace("model.merge", "model = model.merge")


def test_documents_are_left_alone_in_directories_unless_asked_for(tmp_path: Path) -> None:
    (tmp_path / "guide.md").write_text(f"```python\n{WRAP}\n{LOAD}\n```\n")
    (tmp_path / "notes.txt").write_text(f">>> {WRAP}\n>>> {LOAD}\n")
    assert lint([str(tmp_path)], Settings()).diagnostics == ()
    assert [Path(d.location.path).name for d in lint([str(tmp_path)], Settings(documents=True)).diagnostics] == ["guide.md"]
    assert len(lint([str(tmp_path / "notes.txt")], Settings()).diagnostics) == 1
