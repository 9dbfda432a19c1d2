"""PEFT's own test-suite as an oracle: every adapter that its tests save is checked, and none may have an error.

    python benchmarks/peft_suite.py --tests PATH/TO/peft/tests [--select EXPRESSION] [--output DIR] test_custom_models.py ...

The tests run with `PeftModel.save_pretrained` patched to copy what it wrote to the output directory; adapters already there are checked
again without running anything when no test file is named. Findings that say no more than "never trained" (LD702, LD703, LD704) and
those about merging (LD80x) are counted apart: tests seldom train, and some save what cannot be merged on purpose. Exit code 1 when
anything else is an error.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from loradoctor.checkpoint.run import CheckOptions, check_many
from loradoctor.diagnostic import Diagnostic, Severity

_APART = ("LD702", "LD703", "LD704", "LD80")
_PLUGIN = '''
import functools, importlib.machinery, importlib.util, itertools, os, pathlib, shutil, sys, unittest.mock
import peft, transformers

for name in ("diffusers", "datasets"):  # the tests import them for cases that are not run here
    if importlib.util.find_spec(name) is None:
        stand_in = unittest.mock.MagicMock(__spec__=importlib.machinery.ModuleSpec(name, None), __version__="0.0.0", __path__=[])
        sys.modules[name] = stand_in

_count, _original = itertools.count(), peft.PeftModel.save_pretrained

@functools.wraps(_original)
def save_pretrained(self, save_directory, *args, **kwargs):
    result = _original(self, save_directory, *args, **kwargs)
    test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0].rpartition("::")[2]
    for config in pathlib.Path(save_directory).rglob("adapter_config.json"):
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in test)[:120]
        target = pathlib.Path(os.environ["SAVED_ADAPTERS"]) / f"{name}-{os.getpid()}-{next(_count)}"
        target.mkdir(parents=True)
        for file in config.parent.iterdir():
            if file.is_file() and file.name.startswith("adapter_"):
                shutil.copy(file, target)
    return result

peft.PeftModel.save_pretrained = save_pretrained
'''


def run_tests(tests: Path, files: list[str], select: str, output: Path) -> str:
    """Run PEFT's tests with saving patched; pytest's last line."""
    with tempfile.TemporaryDirectory() as plugins:
        Path(plugins, "copies_what_is_saved.py").write_text(_PLUGIN, encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": plugins, "SAVED_ADAPTERS": str(output), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "copies_what_is_saved", "-p", "no:cacheprovider", "-c", os.devnull]
        command += [f"--rootdir={tests.parent}", *(["-k", select] if select else []), *(str(tests / f) for f in files)]
        done = subprocess.run(command, cwd=tests.parent, env=environment, capture_output=True, text=True, check=False)
    return (done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]])[-1]


def judge(output: Path) -> tuple[int, Counter[str], dict[str, list[tuple[str, Diagnostic]]]]:
    """How many adapters there are, how many of each kind were saved, and the errors by code."""
    methods: Counter[str] = Counter()
    errors: dict[str, list[tuple[str, Diagnostic]]] = {}
    directories = sorted(p for p in output.iterdir() if p.is_dir())
    for directory in directories:
        report = check_many([str(directory)], CheckOptions(base="none"))
        methods[str(report.subjects[0].facts.get("method"))] += 1
        for diagnostic in report.at_least(Severity.ERROR):
            errors.setdefault(diagnostic.code, []).append((directory.name, diagnostic))
    return len(directories), methods, errors


def main() -> int:
    """Run, check, print a table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="test files below --tests")
    parser.add_argument("--tests", type=Path, help="PEFT's directory `tests`")
    parser.add_argument("--select", default="", help="pytest's -k")
    parser.add_argument("--output", type=Path, help="where the adapters go; kept")
    arguments = parser.parse_args()
    output = arguments.output or Path(tempfile.mkdtemp(prefix="peft-suite-"))
    output.mkdir(parents=True, exist_ok=True)
    if arguments.files:
        print("tests:", run_tests(arguments.tests.resolve(), arguments.files, arguments.select, output.resolve()))
    count, methods, errors = judge(output)
    print(f"adapters: {count}, of", ", ".join(f"{name} {number}" for name, number in methods.most_common()))
    serious = 0
    for code, found in sorted(errors.items()):
        apart = code.startswith(_APART)
        serious += 0 if apart else len(found)
        print(f"{'apart' if apart else 'ERROR'} {code} {len(found)}x")
        for directory, diagnostic in [] if apart else found[:12]:
            print(f"   {directory[:90]}: {diagnostic.message[:200]}")
    if arguments.output is None:
        shutil.rmtree(output)
    print("errors:", serious)
    return 1 if serious else 0


if __name__ == "__main__":
    raise SystemExit(main())
