"""The pre-commit hooks, run by pre-commit itself over a scratch repository."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ("loradoctor", "pyproject.toml", "README.md", "LICENSE", ".pre-commit-hooks.yaml")
BUG = "from peft import PeftModel\n\nmodel = PeftModel.from_pretrained(base, path)\nmodel.merge_and_unload()\nmodel.save_pretrained(out)\n"
IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


@pytest.fixture
def environ(tmp_path):
    """An environment in which `loradoctor` is found and neither git nor pre-commit knows the user."""
    pytest.importorskip("pre_commit")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "PRE_COMMIT"))}
    home = {"PRE_COMMIT_HOME": str(tmp_path / "pre-commit"), "GIT_CONFIG_GLOBAL": os.devnull, "NO_COLOR": "1"}
    return {**clean, **IDENTITY, **home, "PATH": path}


def _run(argv, cwd, environ):
    return subprocess.run(argv, cwd=cwd, env=environ, capture_output=True, text=True, timeout=900, check=False)


def _repository(directory, environ):
    for argv in (["git", "init", "-q"], ["git", "add", "-A"], ["git", "commit", "-qm", "all"]):
        result = _run(argv, directory, environ)
        assert result.returncode == 0, result.stderr
    return _run(["git", "rev-parse", "HEAD"], directory, environ).stdout.strip()


@pytest.fixture
def hooks(tmp_path, environ):
    """A repository that offers the hooks as the released one does, and its revision."""
    source = tmp_path / "hooks"
    source.mkdir()
    for name in SHIPPED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    return source, _repository(source, environ)


@pytest.fixture
def project(tmp_path, environ, hooks):
    """Write files into a repository that uses the hooks, then run pre-commit over all of it."""
    directory = tmp_path / "project"
    directory.mkdir()

    def run(files, language="system"):
        source, revision = hooks
        chosen = [{"id": name, **({"language": language} if language else {})} for name in ("loradoctor-lint", "loradoctor-check")]
        config = {"repos": [{"repo": str(source), "rev": revision, "hooks": chosen}]}
        # JSON is YAML.
        for name, content in {".pre-commit-config.yaml": json.dumps(config).encode(), **files}.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        _repository(directory, environ)
        return _run([sys.executable, "-m", "pre_commit", "run", "--all-files", "--verbose", "--color=never"], directory, environ)

    return run


def _notebook(source):
    cells = [{"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": source}]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


def _weights(**tensors):
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        raw = struct.pack(f"<{len(values)}f", *values)
        header[name.replace("__", ".")] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


CONFIG = json.dumps(
    {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "org/base"}
).encode()
HALF = "base_model__model__model__layers__0__self_attn__q_proj__lora_"
SOUND = _weights(**{f"{HALF}A__weight": ([2, 4], [0.5] * 8), f"{HALF}B__weight": ([4, 2], [0.25, -1] * 4)})
UNTRAINED = _weights(**{f"{HALF}A__weight": ([2, 4], [0.5] * 8), f"{HALF}B__weight": ([4, 2], [0.0] * 8)})
CLEAN_PROJECT = {
    "train.py": b"import peft\n",
    "run.ipynb": _notebook("import peft"),
    "out/adapter_config.json": CONFIG,
    "out/adapter_model.safetensors": SOUND,
    "out/config.json": b"{}",
}


def test_a_clean_project_passes(project):
    result = project(CLEAN_PROJECT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert [line for line in result.stdout.splitlines() if line.endswith(("Passed", "Failed", "Skipped"))] == [
        line for line in result.stdout.splitlines() if line.startswith("loradoctor ") and line.endswith("Passed")
    ]
    assert "no findings in 2 files" in result.stdout
    assert "no findings in 1 checkpoint" in result.stdout


def test_bugs_in_scripts_and_notebooks_stop_the_commit(project):
    result = project({"src/merge.py": BUG.encode(), "run.ipynb": _notebook(BUG), "notes.txt": BUG.encode()})
    assert result.returncode == 1
    assert " --> src/merge.py:4:1\n" in result.stdout
    assert " --> run.ipynb:cell 0:4:1\n" in result.stdout
    assert "2 errors in 2 files" in result.stdout


def test_config_and_weights_of_one_adapter_are_checked_once(project):
    result = project({"out/adapter_config.json": CONFIG, "out/adapter_model.safetensors": UNTRAINED})
    assert result.returncode == 1
    assert result.stdout.count("error[LD702]") == 1
    assert "1 error in 1 checkpoint\n" in result.stdout


def test_an_adapter_in_the_root_of_the_repository_is_checked(project):
    result = project({"adapter_config.json": CONFIG, "adapter_model.safetensors": UNTRAINED})
    assert result.stdout.count("error[LD702]") == 1


def test_every_adapter_is_checked(project):
    files = {
        f"{name}/{file}": data for name in "abc" for file, data in (("adapter_config.json", CONFIG), ("adapter_model.safetensors", SOUND))
    }
    result = project({**files, "b/adapter_model.safetensors": UNTRAINED})
    assert result.returncode == 1
    assert "1 error in 3 checkpoints" in result.stdout


@pytest.mark.evidence
def test_the_installed_hooks(project):
    """As users have them: pre-commit builds an environment of its own from the repository and the package index."""
    clean = project(CLEAN_PROJECT, language=None)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    broken = project({"merge.py": BUG.encode(), "out/adapter_model.safetensors": UNTRAINED}, language=None)
    assert broken.returncode == 1
    assert "error[LD301]" in broken.stdout
    assert "error[LD702]" in broken.stdout
