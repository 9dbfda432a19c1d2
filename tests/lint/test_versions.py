"""Which versions a project's own files ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loradoctor.config import Settings
from loradoctor.diagnostic import Severity
from loradoctor.lint.installs import of_cells, of_document, of_script
from loradoctor.lint.run import lint
from loradoctor.lint.versions import for_file, pinned


@pytest.mark.parametrize(
    ("clauses", "expected"),
    [
        ("==0.17.1", (0, 17, 1)),
        ("==0.17.*", (0, 17, 999)),
        (">=0.14", None),
        ("<0.18", (0, 17, 999)),
        ("<1.0", (0, 999)),
        ("<=0.15.2", (0, 15, 2)),
        (">=0.14,<0.18", (0, 17, 999)),
        ("~=0.17", None),
        ("~=0.17.0", (0, 17, 999)),
        ("!=0.16", None),
    ],
)
def test_a_pin_is_the_newest_version_it_allows(clauses: str, expected: tuple[int, ...] | None) -> None:
    assert pinned(clauses) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("requirements.txt", "torch\npeft[extra]==0.11.1  # pinned\ntransformers>=4.40\n"),
        ("requirements-train.txt", "peft == 0.11.1 ; python_version > '3.8'\n"),
        ("environment.yml", "dependencies:\n  - python=3.11\n  - pip:\n    - peft==0.11.1\n"),
        ("pyproject.toml", '[project]\ndependencies = ["peft==0.11.1", "torch"]\n'),
        ("pyproject.toml", '[tool.poetry.dependencies]\npeft = "0.11.1"\ntorch = "^2.0"\n'),
        ("uv.lock", '[[package]]\nname = "peft"\nversion = "0.11.1"\n'),
        ("pdm.lock", '[[package]]\nname = "peft"\nversion = "0.11.1"\nrequires_python = ">=3.9"\n'),
        ("pixi.lock", "- kind: pypi\n  name: peft\n  version: 0.11.1\n  url: https://x\n"),
        ("conda-lock.yml", "package:\n- name: peft\n  version: 0.11.1\n  manager: conda\n"),
        ("Pipfile", '[packages]\npeft = "==0.11.1"\ntorch = "*"\n'),
        ("Pipfile.lock", '{"_meta": {}, "default": {"peft": {"version": "==0.11.1"}, "torch": {}}, "develop": {}}'),
        ("pixi.toml", '[pypi-dependencies]\npeft = "==0.11.1"\ntorch = ">=2"\n'),
        ("pyproject.toml", '[tool.pixi.pypi-dependencies]\npeft = { version = "==0.11.1", extras = ["x"] }\n'),
        ("pyproject.toml", '[tool.poetry.group.train.dependencies]\npeft = { version = "0.11.1" }\n'),
        ("pyproject.toml", '[dependency-groups]\ntrain = ["peft==0.11.1", { include-group = "x" }]\n'),
        ("setup.py", "setup(name='x', install_requires=[\n    'peft==0.11.1',\n    \"torch>=2\",\n])\n"),
        ("setup.cfg", "[options]\ninstall_requires =\n    torch\n    peft==0.11.1\n"),
        ("environment.yaml", "dependencies:\n  - conda-forge::python\n  - peft=0.11.1=pyhd8ed1ab_0\n"),
        ("requirements/train.txt", "-r base.txt\npeft==0.11.1\n"),
        ("requirements.txt", "peft @ git+https://github.com/huggingface/peft.git@v0.11.1\ngit+https://github.com/huggingface/trl\n"),
    ],
)
def test_pins_are_read_where_projects_keep_them(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    script = tmp_path / "src" / "train.py"
    script.parent.mkdir()
    assert for_file(str(script)) == {"peft": (0, 11, 1)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("^0.4.2", (0, 4, 999)), ("^4.31", None), ("~0.4.2", (0, 4, 999)), ("*", None), (">=0.3,<0.5", (0, 4, 999))],
)
def test_a_version_in_a_table_may_be_a_range(tmp_path: Path, text: str, expected: tuple[int, ...] | None) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "pyproject.toml").write_text(f'[tool.poetry.dependencies]\npeft = "{text}"\n')
    assert for_file(str(tmp_path / "train.py")).get("peft") == expected


def test_a_file_of_windows_is_read(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "requirements.txt").write_bytes("peft==0.11.1\r\n".encode("utf-16"))
    assert for_file(str(tmp_path / "train.py")) == {"peft": (0, 11, 1)}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("!pip install -q peft==0.4.0 transformers", (0, 4, 0)),
        ("%pip install 'peft>=0.4,<0.5'", (0, 4, 999)),
        ("%%capture\n!pip install -q \\\n  bitsandbytes \\\n  peft[extra]~=0.4.0 > /dev/null", (0, 4, 999)),
        ("!python -m pip --quiet install peft==0.4.0 && echo peft==0.9.0", (0, 4, 0)),
        ("!uv pip install --system peft==0.4.0", (0, 4, 0)),
        ("!conda install -y -c conda-forge peft=0.4", (0, 4, 999)),
        ("pip install peft==0.4.0", (0, 4, 0)),
        ("%%bash\npip3 install peft==0.4.0", (0, 4, 0)),
        ("!pip install git+https://github.com/huggingface/peft.git@v0.4.0", (0, 4, 0)),
        ("!pip install peft==0.4.0\n!pip install peft trl", (0, 4, 0)),
        ("import os\nos.system('pip install peft==0.4.0')", (0, 4, 0)),
        ("subprocess.check_call([sys.executable, '-m', 'pip', 'install',\n    'peft==0.4.0', '-q'])", (0, 4, 0)),
        ("%%writefile requirements.txt\npeft==0.4.0\ntorch", (0, 4, 0)),
        ("!pip install -r old/pins.txt", (0, 3, 0)),
        ("!pip install peft==0.4.0\n!pip install -U peft", None),
        ("!pip install -qU peft", None),
        ("!pip install git+https://github.com/huggingface/peft", None),
        ("!pip install peft@git+https://github.com/huggingface/peft@main", None),
        ("!pip install peft", (0, 9, 0)),
        ("!pip install 'peft>=0.12'", None),
        ("!pip install 'peft>=0.5'", (0, 9, 0)),
        ("!pip install 'peft>=0.12'\n!pip install peft==0.4.0", (0, 4, 0)),
        ("!pip install peft==0.4.0\n!pip install 'peft>=0.12'", None),
        ("# !pip install peft==0.4.0", (0, 9, 0)),
        ("raise ImportError('pip install peft==0.4.0')", (0, 9, 0)),
        ("!pip show peft==0.4.0", (0, 9, 0)),
        ('!pip install f"peft=={version}"', (0, 9, 0)),
    ],
)
def test_a_notebook_pins_what_it_installs(tmp_path: Path, command: str, expected: tuple[int, ...] | None) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "requirements.txt").write_text("peft==0.9.0\n")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "pins.txt").write_text("peft==0.3.0\n")
    assert for_file(str(tmp_path / "a.ipynb"), own=of_cells([command])).get("peft") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```bash\n$ pip install peft==0.4.0\n```\n", "==0.4.0"),
        ("1. `pip install -q peft==0.4.0`\n", "==0.4.0"),
        ("> ```sh\n> pip install torch \\\n>   peft==0.4.0\n> ```\n", "==0.4.0"),
        ("```\ntorch\npeft==0.4.0\n```\n", "==0.4.0"),
        ("- `peft==0.4.0`\r\n- trl\r\n", "==0.4.0"),
        ("It was broken after `pip install peft==0.4.0`.\n", None),
        ("## pip install peft==0.4.0\n", None),
        ("We used peft==0.4.0 then.\n", None),
    ],
)
def test_a_document_pins_what_it_tells_to_install(text: str, expected: str | None) -> None:
    assert of_document(text).requirements.get("peft") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n#     "peft==0.4.0",\n#     "trl",\n# ]\n# ///\n', "==0.4.0"),
        ("os.system('pip install -q peft==0.4.0')\n", "==0.4.0"),
        ("# MAGIC %pip install peft==0.4.0\n", "==0.4.0"),
        ('"""To run this:\n\npip install peft==0.4.0\n"""\n', None),
        ("print('pip install peft==0.4.0')\n", None),
        ("# dependencies: pip install peft==0.4.0\n", None),
    ],
)
def test_a_script_pins_what_it_declares_and_runs(text: str, expected: str | None) -> None:
    assert of_script(text).requirements.get("peft") == expected


def test_what_was_removed_since_is_information_to_a_notebook_that_installs_an_old_version(tmp_path: Path) -> None:
    use = "from peft import prepare_model_for_int8_training\nmodel = prepare_model_for_int8_training(model)"
    for install, expected in (("!pip install peft==0.3.0", Severity.INFO), ("!pip install peft", Severity.ERROR)):
        cells = [{"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": s} for s in (install, use)]
        path = tmp_path / "a.ipynb"
        path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
        report = lint([str(path)], Settings())
        assert [(d.code, d.severity) for d in report.diagnostics] == [("LD440", expected)]


def test_the_nearest_file_wins_and_settings_win_over_all(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "requirements.txt").write_text("peft==0.4.0\ntrl==0.7\n")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "requirements.txt").write_text("peft==0.20.0\n")
    script = str(tmp_path / "new" / "train.py")
    assert for_file(script) == {"peft": (0, 20, 0), "trl": (0, 7)}
    assert for_file(script, {"peft": "0.5"})["peft"] == (0, 5)


def test_files_above_the_repository_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("peft==0.4.0\n")
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    assert for_file(str(tmp_path / "repo" / "train.py")) == {}


def test_broken_files_pin_nothing(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "pyproject.toml").write_text("[project\n")
    (tmp_path / "requirements.txt").write_bytes(b"\xff\xfe==\n==1\n")
    assert for_file(str(tmp_path / "train.py")) == {}


def test_the_release_of_a_commit_is_not_known(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "requirements.txt").write_text("peft @ git+https://github.com/huggingface/peft.git@13e53fc7ee5d89d59b16523051006dddf0fb7a49\n")
    assert for_file(str(tmp_path / "train.py")) == {"peft": (0,)}


@pytest.mark.parametrize(
    ("copy", "text", "expected"),
    [
        ("peft", '__version__ = "0.2.0"\n', (0, 2, 0)),
        ("scripts/peft", '__version__ = "0.3.0.dev0"\n', (0, 2, 999)),
        ("src/peft", "__version__ = '0.6.0'\n", (0, 6, 0)),
        ("peft/src/peft", '__version__ = "0.6.0"\n', (0, 6, 0)),
        ("peft", "from .peft_model import PeftModel\n", (0, 11, 1)),
        ("other/peft", '__version__ = "0.2.0"\n', (0, 11, 1)),
    ],
)
def test_a_copy_of_a_library_goes_before_what_is_pinned(tmp_path: Path, copy: str, text: str, expected: tuple[int, ...]) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "requirements.txt").write_text("peft==0.11.1\n")
    (tmp_path / copy).mkdir(parents=True)
    (tmp_path / copy / "__init__.py").write_text(text)
    assert for_file(str(tmp_path / "scripts" / "train.py")) == {"peft": expected}
