"""Every rule's fix in every layout: it repairs, the program is otherwise the same, no comment is lost, and again changes nothing."""

from __future__ import annotations

import ast
import json
import os
from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest

from loradoctor import registry
from loradoctor.config import Settings
from loradoctor.diagnostic import Report
from loradoctor.lint import rewrite
from loradoctor.lint.pipeline import Pipeline
from loradoctor.lint.source import BLOCK, Source
from tests.lint import layouts

PIPELINE = Pipeline(Settings())

MORE = {
    "an import of another library": "import peft\nfrom torch import nn\nfrom peft import prepare_model_for_int8_training\n"
    "model = prepare_model_for_int8_training(model)\n",
    "an import in brackets": "from transformers import (\n    AutoModelForCausalLM,  # the model\n    AutoTokenizer,\n)\n"
    "from peft import LoraConfig\n"
    'base = AutoModelForCausalLM.from_pretrained("x", load_in_4bit=True)\n',
    "the module": "import peft\nimport transformers as tf\n"
    "base = tf.AutoModelForCausalLM.from_pretrained('x', load_in_4bit=True, load_in_8bit=False)\n",
    "a name that is imported twice": "from peft import prepare_model_for_int8_training, prepare_model_for_kbit_training\n"
    "model = prepare_model_for_int8_training(model)\n",
    "an annotation": "import peft\nfrom transformers import AutoModelForVision2Seq\n"
    "model: AutoModelForVision2Seq = AutoModelForVision2Seq.from_pretrained('x')\n",
}

# A statement that is deleted takes the comments in it along, a walrus is not an assignment, and these rules look at the
# block they are in: the fix is refused, or there is none.
NO_FIX = {
    ("state-dict-patch", "comma first"),
    *(("state-dict-patch", name) for name in layouts.CALLS if name.startswith("comments")),
    *(("quantized-model-misuse", name) for name in layouts.CALLS if name.startswith("comments")),
    *((rule, "in brackets over lines") for rule in ("state-dict-patch", "quantized-model-misuse")),
    *((rule, "walrus") for rule in ("unwrapped-model-trained", "chat-template-result", "none-assigned", "wrapper-saved")),
    *(("unsafe-load", f"in a {block}") for block in ("function", "function by tabs", "class", "method")),
}

# Layouts that write a statement, or something before every statement: a statement that a fix adds is not written so.
PER_STATEMENT = {
    *("a semicolon behind", "a statement behind", "a statement before", "one-line if", "one-line with", "alone in an if", "in a try"),
    *("walrus", "annotated", "in brackets", "in brackets over lines", "behind a backslash"),
}


def _programs() -> dict[str, str]:
    found = {rule.name: rule.examples[0] for rule in registry.family("lint")}
    return {name: text for name, text in found.items() if any(d.fix for d in look("a.py", text.encode()).diagnostics)} | MORE


def look(path: str, data: bytes) -> Report:
    return PIPELINE.examine(path, data)


def repaired(path: str, data: bytes) -> bytes:
    """The file after all its fixes, once everything that must hold of any fix has been seen to hold."""
    before = look(path, data)
    assert any(d.fix for d in before.diagnostics), "there is nothing to fix"
    outcome = rewrite.repair(path, data, PIPELINE, unsafe=True)
    assert not outcome.refused, "a fix was refused"
    assert [d.code for d in outcome.report.diagnostics if d.fix] == [], "found again after its fix"
    new = _codes(outcome.report) - _codes(before)
    assert not new, f"the fix brought {dict(new)}"
    lost = rewrite.lost_comments(Source.from_bytes(path, data), Source.from_bytes(path, outcome.data))
    assert not lost, f"the fix lost {dict(lost)}"
    assert rewrite.repair(path, outcome.data, PIPELINE, unsafe=True).data == outcome.data, "a second time changes more"
    return outcome.data


def _codes(report: Report) -> Counter[str]:
    return Counter(d.code for d in report.diagnostics)


@cache
def meaning(program: bytes) -> str:
    return ast.dump(ast.parse(program))


@cache
def goal(name: str) -> str:
    """The program after its fixes, as its author wrote it."""
    return repaired("a.py", PROGRAMS[name].encode()).decode()


PROGRAMS = _programs()


# One fix of each kind meets every layout, any other every fourth one (of which it shares none with its neighbours), unless the
# environment asks for all of them: that takes minutes.
EVERY = {"adapter-subfolder", "peft-config-twice", "merge-result-dropped", "combination-not-activated", "removed-api"}
ALL = bool(os.environ.get("LORADOCTOR_ALL_LAYOUTS"))


def _each(names: dict[str, object]) -> list[object]:
    pairs = [(p, n, i + k) for i, p in enumerate(PROGRAMS) for k, n in enumerate(names) if (p, n) not in NO_FIX]
    return [pytest.param(p, n, id=f"{p}: {n}") for p, n, turn in pairs if ALL or p in EVERY or turn % 4 == 0]


@pytest.mark.parametrize(("name", "layout"), _each({**layouts.CALLS}))
def test_every_way_to_write_a_call(name: str, layout: str) -> None:
    data = repaired("a.py", layouts.relaid(PROGRAMS[name], layouts.CALLS[layout]).encode())
    assert meaning(data) == meaning(goal(name).encode())


@pytest.mark.parametrize(("name", "layout"), _each({**layouts.STATEMENTS}))
def test_every_place_for_a_statement(name: str, layout: str) -> None:
    change: Callable[[str], str] = layouts.STATEMENTS[layout]
    data = repaired("a.py", change(PROGRAMS[name]).encode())
    if layout not in PER_STATEMENT:
        assert meaning(data) == meaning(change(goal(name)).encode())
    ast.parse(data)


@pytest.mark.parametrize(("name", "layout"), _each({**layouts.BYTES}))
def test_every_way_to_encode_a_file(name: str, layout: str) -> None:
    change = layouts.BYTES[layout]
    before = change(PROGRAMS[name])
    data = repaired("a.py", before)
    assert meaning(data) == meaning(change(goal(name)))
    assert _ends(data) <= _ends(before), "a line ends in another way than the lines of the file do"


def _ends(data: bytes) -> set[bytes]:
    return {line[len(line.rstrip(b"\r\n")) :][:2] for line in data.splitlines(keepends=True)} - {b""}


@pytest.mark.parametrize(("name", "layout"), _each({**layouts.NOTEBOOKS}))
def test_every_way_to_write_a_notebook(name: str, layout: str) -> None:
    cells = layouts.NOTEBOOKS[layout]
    before = cells(PROGRAMS[name])
    data = repaired("a.ipynb", before)
    assert meaning(Source.from_bytes("a.ipynb", data).text.encode()) == meaning(
        Source.from_bytes("a.ipynb", cells(goal(name))).text.encode()
    )
    assert _without_sources(data) == _without_sources(before)
    assert len(data.splitlines()) - len(before.splitlines()) in range(-9, 9), "the notebook was written anew"


def _without_sources(data: bytes) -> list[bytes]:
    """The lines of the file but those of code, and what its JSON says beside it."""
    notebook = json.loads(data)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["source"] = ""
    return [json.dumps(notebook).encode(), data[-20:]]


@pytest.mark.parametrize(("name", "layout"), _each({**layouts.DOCUMENTS}))
def test_every_way_to_show_code_in_a_document(name: str, layout: str) -> None:
    path, change = layouts.DOCUMENTS[layout]
    before = change(PROGRAMS[name])
    if not any(d.fix for d in look(path, before.encode()).diagnostics):
        pytest.skip("what it is about is not looked for in documents")
    data = repaired(path, before.encode())
    assert _blocks(path, data) == _blocks(path, change(goal(name)).encode())
    assert data.startswith("# Größe".encode()) or before[:1] != "#"
    assert data.endswith(before.encode()[-8:])


def _blocks(path: str, data: bytes) -> str:
    lines = Source.from_bytes(path, data).text.splitlines(keepends=True)
    return meaning("".join(line for line in lines if not line.startswith(BLOCK)).encode())
