"""How long `loradoctor lint` takes, as ratios of medians of commands that take turns, so that a busy machine slows all.

    python benchmarks/lint_speed.py [--package DIR] [--project DIR] [--fixit PYTHON] [--torchfix PYTHON] [--curve] [--runs 5]

A file without a relevant word is compared with starting Python at all, PEFT scripts of 50 to 10,000 lines with importing libcst and
parsing them. ``--package`` is a large library of which little matters (transformers), ``--project`` directories where nearly
everything does (peft's examples and src): both against `ruff check --select F --no-cache`, cold and warm; the project also against
Fixit and TorchFix in environments of their own. ``--curve`` times generated trees to 100,000 files, 1 % of them relevant. What is
not installed is left out with a line. Exits 1 when a ratio is above its limit, or a run takes more than 400 MB.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

FIXTURE = Path(__file__).parents[1] / "fixtures" / "lint" / "adapter_on_adapter.py"
PARSE = "import libcst, sys; libcst.parse_module(open(sys.argv[1]).read())"
# What pip installs is compiled; a checkout is on its first run, unless the environment forbids it.
COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
PLAIN = (
    "import json\n\n\ndef total(rows):\n    return sum(row['price'] for row in rows)\n\n\nprint(total(json.load(open('rows.json'))))\n" * 20
)
LENGTHS = (50, 500, 2_500, 10_000)
TREES = (1_000, 10_000, 100_000)
MEMORY = 400
"""Megabytes that a run may take, its processes together."""
PEAK = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
)


@dataclass(frozen=True)
class Limit:
    """One command's time over another's, and what it may be."""

    name: str
    over: str
    limit: float


def seconds(command: list[str], directory: Path | None = None) -> float:
    began = time.perf_counter()
    shown = subprocess.run(command, capture_output=True, check=False, env=COMPILED, cwd=directory)
    if shown.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} failed: {shown.stderr.decode()}")
    return time.perf_counter() - began


def medians(commands: dict[str, list[str]], runs: int, directory: Path | None = None) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, command in commands.items():
            took = seconds(command, directory)
            if turn:  # the first fills the caches
                taken[name].append(took)
    return {name: statistics.median(times) for name, times in taken.items()}


def judge(took: dict[str, float], limits: list[Limit]) -> bool:
    """Print the times and the ratios; whether all of these are within their limits."""
    for name, median in took.items():
        print(f"{name:34}{1000 * median:10.1f} ms")
    fine = True
    for one in limits:
        if one.name in took and one.over in took:
            ratio = took[one.name] / took[one.over]
            fine &= ratio <= one.limit
            print(f"{one.name} / {one.over}: {ratio:.2f}   limit {one.limit}   {'ok' if ratio <= one.limit else 'TOO SLOW'}")
    print()
    return fine


def lint(*options: str) -> list[str]:
    return [sys.executable, "-m", "loradoctor", "lint", "--isolated", *options]


def single(directory: Path, runs: int) -> bool:
    plain = directory / "plain.py"
    plain.write_text(PLAIN)
    commands = {"bare interpreter": [sys.executable, "-c", "pass"], "lint, no relevant word": lint("--no-cache", str(plain))}
    limits = [Limit("lint, no relevant word", "bare interpreter", 5.0)]
    text = FIXTURE.read_text()
    for length in LENGTHS:
        script = directory / f"script_{length}.py"
        functions = "".join(f"def unrelated_{n}(rows):\n    return [row + {n} for row in rows]\n\n\n" for n in range(length // 4))
        script.write_text(text + "\n\n" + functions)
        commands[f"libcst, {length} lines"] = [sys.executable, "-c", PARSE, str(script)]
        commands[f"lint, {length} lines"] = lint("--no-cache", str(script))
        limits.append(Limit(f"lint, {length} lines", f"libcst, {length} lines", 3.0))
    return judge(medians(commands, runs), limits)


def tree(label: str, paths: list[str], others: dict[str, list[str]], limits: list[Limit], runs: int, work: Path) -> bool:
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    where = [str(Path(path).resolve()) for path in paths]
    commands = {f"{label}, cold": lint("--no-cache", *where), f"{label}, warm": lint(*where)}
    if ruff:
        commands["ruff"] = [ruff, "check", "--isolated", "--select", "F", "--no-cache", *where]
    else:
        print("ruff is not installed: not compared")
    took = medians(commands, runs, work)
    for name, command in others.items():  # minutes rather than seconds: once is enough
        took[name] = seconds([*command, *where], work)
    peak = subprocess.run([sys.executable, "-c", PEAK, *commands[f"{label}, cold"]], capture_output=True, check=True, env=COMPILED, cwd=work)
    print(f"{label}: {int(peak.stdout)} MB at most in one process   limit {MEMORY}")
    return judge(took, limits) and int(peak.stdout) <= MEMORY


def curve(directory: Path) -> None:
    """Time over the number of files."""
    print(f"{'files':>8}{'seconds':>10}{'ms a file':>12}")
    for count in TREES:
        top = directory / f"tree{count}"
        for number in range(count):
            package = top / f"package{number // 500}"
            if number % 500 == 0:
                package.mkdir(parents=True)
            (package / f"module{number}.py").write_text(FIXTURE.read_text() if number % 100 == 0 else PLAIN)
        took = seconds(lint("--no-cache", str(top)))
        print(f"{count:8}{took:10.2f}{1000 * took / count:12.3f}")
        shutil.rmtree(top)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", nargs="+", help="a large library of which little matters")
    parser.add_argument("--project", nargs="+", help="directories of which nearly everything matters")
    parser.add_argument("--fixit", help="an interpreter that has Fixit")
    parser.add_argument("--torchfix", help="an interpreter that has TorchFix")
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    others = {}
    for name, python, arguments in (("fixit", options.fixit, ["lint"]), ("torchfix", options.torchfix, ["--select", "ALL"])):
        if python:
            others[name] = [str(Path(python).parent / name), *arguments]
        else:
            print(f"no --{name}: not compared")
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        fine = single(work, options.runs)
        if options.package:
            limits = [Limit("package, cold", "ruff", 3.0), Limit("package, warm", "ruff", 1.5)]
            fine &= tree("package", options.package, {}, limits, options.runs, work)
        if options.project:
            slower = [Limit("project, cold", name, 0.1) for name in others]
            limits = [Limit("project, cold", "ruff", 12.0), Limit("project, warm", "ruff", 1.5), *slower]
            fine &= tree("project", options.project, others, limits, options.runs, work)
        if options.curve:
            curve(work)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
