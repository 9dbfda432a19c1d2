"""What the commands may import: a hook that runs on every commit must not pay for torch, and lint for nothing but itself."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import loradoctor

HEAVY = {"torch", "numpy", "rich", "libcst", "transformers", "peft", "safetensors", "ml_dtypes", "huggingface_hub"}
_PROBE = """
import json, sys
before = set(sys.modules)
{body}
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(loaded)), file=sys.stderr)
"""


def _imported_by(body, cwd):
    """The top-level packages that running ``body`` in a fresh interpreter imports."""
    environment = {**os.environ, "NO_COLOR": "1"}
    result = subprocess.run(
        [sys.executable, "-c", _PROBE.format(body=body)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return set(json.loads(result.stderr.splitlines()[-1])) & HEAVY


def _command(*argv):
    return f"from loradoctor.__main__ import main; code = main({list(argv)!r})"


@pytest.fixture
def clean_tree(tmp_path):
    """A project that has nothing to do with PEFT."""
    (tmp_path / "pkg").mkdir()
    for i in range(20):
        (tmp_path / "pkg" / f"m{i}.py").write_text("import json\n\nprint(json.dumps({}))\n")
    return tmp_path


def test_lint_of_a_clean_tree_imports_nothing_heavy(clean_tree):
    assert _imported_by(_command("lint", "."), clean_tree) == set()


def test_lint_of_a_peft_script_without_findings_imports_nothing_heavy(clean_tree):
    (clean_tree / "train.py").write_text("from peft import PeftModel\nm = PeftModel.from_pretrained(a, b)\nm = m.merge_and_unload()\n")
    assert _imported_by(_command("lint", "."), clean_tree) == set()


def test_a_finding_on_a_plain_line_needs_no_second_parser(clean_tree):
    (clean_tree / "train.py").write_text("from peft import PeftModel\nm = PeftModel.from_pretrained(a, b)\nm.merge_and_unload()\n")
    assert _imported_by(_command("lint", "."), clean_tree) == set()


def test_libcst_says_where_findings_stand_whose_place_is_uncertain(clean_tree):
    source = "from peft import PeftModel\nm = PeftModel.from_pretrained(a, b)\nm.merge_and_unload();\nm.save_pretrained(c)\n"
    (clean_tree / "train.py").write_text(source)
    assert _imported_by(_command("lint", "."), clean_tree) == {"libcst"}


def test_what_the_interpreter_cannot_parse_is_left_to_libcst(clean_tree):
    (clean_tree / "train.py").write_text("from peft import PeftModel\nm = PeftModel.from_pretrained(a, b)\nm.merge_and_unload(\n")
    assert _imported_by(_command("lint", "."), clean_tree) == {"libcst"}


def test_the_light_check_imports_no_torch(adapter):
    assert _imported_by(_command("check", "--no-base", str(adapter)), adapter.parent) <= {"numpy", "ml_dtypes"}


def test_selected_rules_on_a_clean_tree_import_nothing_heavy(clean_tree):
    assert _imported_by(_command("lint", "--select", "LD1", "."), clean_tree) == set()


def test_rules_in_a_pipe_import_nothing_heavy(clean_tree):
    assert _imported_by(_command("rules"), clean_tree) == set()


def test_the_pytest_plugin_imports_nothing_heavy(clean_tree):
    assert _imported_by("import pytest; import loradoctor.pytest_plugin", clean_tree) == set()


def _ours_imported_by(body):
    """The modules of ours that running ``body`` in a fresh interpreter imports."""
    code = f"import sys; {body}; print(*(m for m in sys.modules if m.startswith('loradoctor.')))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return result.stdout.split()


def test_the_pytest_plugin_imports_none_of_our_modules():
    assert _ours_imported_by("import loradoctor.pytest_plugin") == ["loradoctor.pytest_plugin"]


def test_the_package_imports_none_of_our_modules():
    assert _ours_imported_by("import loradoctor") == []


@pytest.fixture
def adapter(tmp_path):
    """A one-module LoRA adapter."""
    import torch
    from safetensors.torch import save_file

    directory = tmp_path / "adapter"
    directory.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "org/base"}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{prefix}.lora_A.weight": torch.ones(2, 8), f"{prefix}.lora_B.weight": torch.ones(8, 2)}
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    return directory


def test_everything_public_is_there_and_listed():
    assert all(getattr(loradoctor, name) is not None for name in loradoctor.__all__)
    assert set(loradoctor.__all__) == {*loradoctor._HOMES, "__version__", "lint"}
    assert set(loradoctor.__all__) <= set(dir(loradoctor))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module `loradoctor` has no attribute `nope`"):
        _ = loradoctor.nope


def test_lint_is_a_function_whatever_was_imported_first(clean_tree):
    import loradoctor.lint.run

    assert loradoctor.lint(clean_tree).diagnostics == ()


def test_lint_takes_the_settings_of_the_command_line(tmp_path):
    (tmp_path / "broken.py").write_text("import peft\nx = (\n")
    assert [d.code for d in loradoctor.lint(str(tmp_path)).diagnostics] == ["LD001"]
    assert loradoctor.lint([tmp_path], ignore=["LD001"]).diagnostics == ()


def test_check_is_a_function(adapter):
    report = loradoctor.check(adapter, base=None)
    assert [s.path for s in report.subjects] == [str(adapter)]
    assert {c.name: c.status for c in report.checks}["values"] == "passed"


def test_a_target_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(loradoctor.TargetError, match="does not exist"):
        loradoctor.check(tmp_path / "gone")


def _prints(path):
    calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return any(isinstance(called, ast.Name) and called.id == "print" for called in calls)


def test_only_the_command_line_prints():
    package = Path(loradoctor.__file__).parent
    printing = {str(p.relative_to(package)) for p in package.rglob("*.py") if "oracle" not in p.parts and _prints(p)}
    assert printing == {"__main__.py", "cli.py"}


def test_files_are_small_enough_to_read_in_one_sitting():
    package = Path(loradoctor.__file__).parent
    long = {str(p.relative_to(package)): n for p in package.rglob("*.py") if (n := len(p.read_text().splitlines())) > 600}
    assert not long
