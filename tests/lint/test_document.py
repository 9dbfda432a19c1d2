"""The Python in documents: where blocks begin and end, what carries over between them, and where findings stand."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradoctor.config import Settings
from loradoctor.diagnostic import Severity
from loradoctor.lint import snippet
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
        ("In [1]: for a in b:\n   ...:     a()\n   ...: \nstep 1: 0.5\nstep 2: 0.4\n", ["for a in b:\n    a()\n\n"]),
        ("In [2]:\na = b()\n\nprint(a)\n\nmodel.json: 0%| | 0/665 [00:00<?]\n\nDone! 3 files\n", ["\na = b()\n\nprint(a)\n"]),
        ('In [4]:\na = """\n\n### Input:\n{}\n"""\n### Input:\n\nThe text\n', ['\na = """\n\n### Input:\n{}\n"""\n### Input:\n']),
        ("In [5]:\n    a = 1\n    b = 2\n\nloss  0.5\n...   ...\nrows 3\n", ["\na = 1\nb = 2\n"]),
        ("In [None]:\na = 1\n\nSome text\n[7]:\nb = 2\n", ["\na = 1\n", "\nb = 2\n"]),
        ("```\nIn [1]: a = f()\nOut[1]:\n[1,\n 2\nIn [2]: b = a()\n```\n", ["a = f()\n", "b = a()\n"]),
        (
            '```python title="train.py"\na = 1\n```\n```py:train.py\nb = 1\n```\n```{code-cell} ipython3\nc = 1\n```\n',
            ["a = 1\n", "b = 1\n", "c = 1\n"],
        ),
        ("```python output\na = 1\n```\n```javascript\na = 1\n```\n```pytorch\na = 1\n```\n", []),
        ("```ipython3\na = 1\n```\n```Python\nb = 1\n```\n~~~~ {.python .numberLines}\nc = 1\n~~~~\n", ["a = 1\n", "b = 1\n", "c = 1\n"]),
        ("> ```python\n> a = 1\n>\n> if a:\n>     b = 2\n> ```\n", ["a = 1\n\nif a:\n    b = 2\n"]),
        ('1. One\n\n    - ```python\n      a = """\n  x\n      """\n      ```\n', ['a = """\nx\n"""\n']),
        ("\t```python\n\ta = 1\n\tif a:\n\t\tb = 2\n\t```\n", ["a = 1\nif a:\n\tb = 2\n"]),
        ("```python\na = 1\n\nThen we save it, as always.\n\n```python\nb = 2\n```\n", ["a = 1\n", "b = 2\n"]),
        ("```\n@article{hu2022,\n  title={LoRA},\n  year = 2022\n}\n```\n", []),
        ("```\nuser: for me, `a = 1`\nimport = none\n```\n", []),
        ("```\ndef f(a: int = 1):\n```\n", ["def f(a: int = 1):\n"]),
        ("<Tip>\n\n```py\na = 1\n```\n\n</Tip>\n<code>b = 2</code>\n", ["a = 1\n"]),
        (".. testcode::\n\n   a = 1\n\n.. code-block::\n\n   b = 2\n\n.. code-block:: sh\n\n   c = 3\n", ["a = 1\n\n", "b = 2\n\n"]),
        (".. doctest::\n   :options: +SKIP\n\n   >>> a = 1\n   1\n   >>> b = 2\n", ["a = 1\nb = 2\n"]),
        ("Train it::\n\n    a = train()\n\nLike this::\n\n    some words = here, not code(\n", ["a = train()\n\n"]),
        (">>> a = 1\n\n>>> b = 2\n2\n\nText\n\n>>> c = 3\n", ["a = 1\nb = 2\n", "c = 3\n"]),
        ("\ufeff```python\r\na = 1\r\n```\r\n", ["a = 1\n"]),
    ],
)
def test_blocks(text: str, expected: list[str]) -> None:
    assert [b.text for b in blocks(text)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("c = LoraConfig(r=8, ...)\n", "c = LoraConfig(r=8, **_)\n"),
        ("c = LoraConfig(...)\n", "c = LoraConfig(**_)\n"),
        ("t = Trainer(\n    model=model,\n    ...  # as before\n)\n", "t = Trainer(\n    model=model,\n    **_  # as before\n)\n"),
        ("t = Trainer(\n    ...\n    args=args,\n)\n", "t = Trainer(\n    *_,\n    args=args,\n)\n"),
        ("f(..., x)\n", "f(*_ , x)\n"),
        ("x[..., 0]\ny = [...]\nclass A: ...\ndef f(a=...): ...\nif (...): pass\n", None),
        ("f('a, ...', \"(...)\")  # (...)\n", None),
        ("c: Callable[..., int] = f(Tuple[int, ...])\n", None),
        ("x = 1 \\\n", "x = 1  \n"),
        ("!pip install peft\nc = f(...)\n", "0                \nc = f(**_)\n"),
        ("c = f(a=1, ...\n", None),
    ],
)
def test_dots_are_arguments_that_are_not_told(text: str, expected: str | None) -> None:
    assert snippet.code(text) == (expected or text)


def test_arguments_that_are_not_told_may_be_any(tmp_path: Path) -> None:
    wrap = "a = get_peft_model(...)"
    assert codes(tmp_path, f"```python\n{wrap}\nb = get_peft_model(...)\n```\n```python\nc = LoraConfig(task_type=x, ...)\n```\n") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = b = 1\nc, (d, *e) = f\nwith g as h:\n    i = 1\n", ["a", "b", "c", "d", "e", "h", "i"]),
        ("f(\n    a=1,\n    b=[c for c in d],\n)\ndef g():\n    h = 1\n", []),
        ("a = 1\n  b = 2\nf(\n    c=1\n", ["a"]),
    ],
)
def test_a_block_binds_what_its_top_level_assigns(text: str, expected: list[str]) -> None:
    assert snippet.bound(text) == expected


def test_an_argument_is_not_a_name_of_the_block(tmp_path: Path) -> None:
    train = "trainer = Trainer(\n    model=base,\n)\ntrainer.train()"
    base = 'base = AutoModelForCausalLM.from_pretrained("gpt2")'
    assert codes(tmp_path, f"```python\n{base}\nmodel = get_peft_model(base, LoraConfig())\n```\n```python\n{train}\n```\n") == [
        ("LD201", 6)
    ]


def test_the_cells_of_an_export_run_on(tmp_path: Path) -> None:
    again = "model = get_peft_model(model, LoraConfig())"
    text = f"In [2]:\n{WRAP}\n\nmodel.json: 0%| | 0.00/26.0\n\nIn [3]:\n{again}\n"
    assert codes(tmp_path, text, "export.txt") == [("LD102", 7)]
    assert codes(tmp_path, text.replace("[2]", "[7]").replace("[3]", "[1]"), "export.txt") == []
    assert codes(tmp_path, text.replace("In [3]", "## Again\n\nIn [3]"), "export.txt") == [("LD102", 9)]


def test_the_same_step_told_another_way_starts_from_the_same_base(tmp_path: Path) -> None:
    base = 'base = AutoModelForCausalLM.from_pretrained("gpt2")'
    load = 'model = PeftModel.from_pretrained(base, "runs/last")'
    other = load.replace(")", ", is_trainable=True)")
    assert codes(tmp_path, f"```python\n{base}\n{load}\n```\n> ```python\n> {other}\n> ```\n") == []


def test_prose_in_an_old_encoding_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "guide.md"
    before = f"用法\n```python\n{WRAP}\nmodel.merge_and_unload()\nmodel.save_pretrained('x')  # 保存\n```\n".encode("gb18030")
    path.write_bytes(before)
    (finding,) = lint([str(path)], Settings()).diagnostics
    assert finding.location.span
    assert (finding.code, finding.location.span.line) == ("LD301", 4)
    fix([str(path)], Settings(), unsafe=False, diff=False)
    assert path.read_bytes() == before.replace(b"model.merge", b"model = model.merge")


@pytest.mark.parametrize("exit_", ["exit()", "quit()", "sys.exit(0)  # restart"])
def test_leaving_the_interpreter_ends_one_block(tmp_path: Path, exit_: str) -> None:
    assert codes(tmp_path, f"```python\n{exit_}\n```\n```python\n{WRAP}\n{LOAD}\n```\n") == [("LD101", 6)]


def test_names_and_models_carry_over_to_a_block_that_only_uses_them(tmp_path: Path) -> None:
    assert codes(tmp_path, f"```python\n{WRAP}\n```\nThen:\n```python\n{LOAD}\n```\n") == [("LD101", 6)]


def test_imports_and_names_outlive_headings_and_models_do_not(tmp_path: Path) -> None:
    first = 'import peft as p\nwhere = "runs/last"\nmodel = load()'
    second = "a = p.get_peft_model(model, p.LoraConfig())\nb = p.PeftModel.from_pretrained(a, where)"
    assert codes(tmp_path, f"```python\n{first}\n```\n\n## Loading\n\n```python\n{second}\n```\n") == [("LD101", 11)]


def test_a_name_that_nothing_binds_is_the_librarys_in_documents_only(tmp_path: Path) -> None:
    assert codes(tmp_path, f"```python\n{WRAP}\n{LOAD}\n```\n") == [("LD101", 3)]
    assert codes(tmp_path, f"{WRAP}\n{LOAD}\n", "train.py") == []


@given(st.text(alphabet="f(.,)a=[]'\"#\\\n !%:x*_", max_size=40))
def test_masked_code_keeps_every_character_in_its_place(text: str) -> None:
    masked = snippet.code(text)
    assert len(masked) == len(text)
    assert masked.count("\n") == text.count("\n")


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
