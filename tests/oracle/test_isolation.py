"""The oracle runs under interpreters that have never heard of loradoctor."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import loradoctor.oracle

DIRECTORY = Path(loradoctor.oracle.__file__).parent
ALLOWED = {*sys.stdlib_module_names, "torch", "safetensors", "transformers", "peft", "huggingface_hub"}


def imported(tree: ast.AST) -> set[str]:
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 0}
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("file", sorted(DIRECTORY.glob("*.py")), ids=lambda f: f.name)
def test_imports_only_what_the_user_has(file):
    assert imported(ast.parse(file.read_text())) <= ALLOWED


def test_the_client_needs_no_torch():
    program = "import sys, loradoctor.oracle.client; print(any(m in sys.modules for m in ('torch', 'numpy', 'peft')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
