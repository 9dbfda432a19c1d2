"""Other checkers of adapters and model files beside ours, on the same directories, in one run.

    for tool in peft-doctor adaptersentry hayward 'ckptkit[cli,safetensors]' modelscan; do
        python -m venv DIR/${tool%%[*} && DIR/${tool%%[*}/bin/pip install "$tool"; done
    python benchmarks/catalogue_cases.py --output CASES
    python benchmarks/peers.py --environments DIR CASES/cases/* CORPUS/adapters/*

Prints per directory which tools flag it, then per tool: flagged, median seconds and the largest resident memory of one process tree's
parent, start of the interpreter included. Flagged is what the tool itself calls worse than information, by its exit status or its JSON.
A tool that looks for malicious code alone says nothing about an adapter that is merely broken; the table does not call that a fault.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT = 120
WORSE = frozenset({"warning", "error", "critical", "fail", "high", "medium"})
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class Run:
    """One process: its exit status (None: still running after `LIMIT` seconds), output, seconds and megabytes."""

    status: int | None
    output: str
    seconds: float
    megabytes: float


def measured(command: Sequence[str]) -> Run:
    with tempfile.TemporaryFile() as output:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        status: int | None = None
        while True:
            done, code, usage = os.wait4(process.pid, os.WNOHANG)
            if done:
                status = os.waitstatus_to_exitcode(code)
                break
            if time.perf_counter() - begun > LIMIT:
                process.kill()
                _, _, usage = os.wait4(process.pid, 0)
                break
            time.sleep(0.01)
        process.returncode = -1 if status is None else status  # it was waited for above
        seconds = time.perf_counter() - begun
        output.seek(0)
        return Run(status, output.read().decode("utf-8", "replace"), seconds, usage.ru_maxrss / 1024)


def by_status(run: Run) -> bool:
    return run.status != 0


def by_finding(run: Run) -> bool:
    """Modelscan exits with 1 when it found something, with 3 when no file was of a kind that it reads."""
    return run.status == 1


def by_severity(run: Run) -> bool:
    """peft-doctor exits with 0 or 1 by its own mind: its findings count."""
    try:
        issues = json.loads(run.output[run.output.index("{") :])["issues"]
    except (ValueError, KeyError, TypeError):
        return run.status != 0
    return any(issue.get("severity") in WORSE for issue in issues)


def weights(directory: Path) -> Path:
    return next((directory / name for name in WEIGHTS if (directory / name).exists()), directory / WEIGHTS[0])


@dataclass(frozen=True)
class Tool:
    """How a tool is called on a directory, and what of its answer is a flag."""

    name: str
    call: Callable[[Path, Path], list[str]]
    flags: Callable[[Run], bool] = by_status


def tools(loradoctor: str) -> list[Tool]:
    return [
        Tool("loradoctor", lambda _, d: [loradoctor, "check", "--no-base", "--isolated", "--fail-on", "warning", str(d)]),
        Tool("peft-doctor", lambda b, d: [str(b / "peft-doctor"), "inspect-adapter", str(d), "-o", "json"], by_severity),
        Tool("peft-doctor integrity", lambda b, d: [str(b / "peft-doctor"), "adapter-integrity", str(d), "-o", "json"], by_severity),
        Tool("adaptersentry", lambda b, d: [str(b / "adaptersentry"), "scan", str(weights(d)), "--fail-on", "review"]),
        Tool("hayward", lambda b, d: [str(b / "hayward"), "scan", "--fail-on", "low", "--quiet", str(d)]),
        Tool("ckptkit", lambda b, d: [str(b / "ckptkit"), "validate", str(weights(d))]),
        Tool("modelscan", lambda b, d: [str(b / "modelscan"), "-p", str(d)], by_finding),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="has a virtual environment per tool, named after it")
    parser.add_argument("--json", type=Path, help="write every run here as well")
    parser.add_argument("directories", type=Path, nargs="+")
    arguments = parser.parse_args()
    chosen: list[tuple[Tool, Path]] = []
    for tool in tools(str(Path(sys.executable).with_name("loradoctor"))):
        place = arguments.environments / tool.name.split()[0] / "bin"
        if tool.name != "loradoctor" and not (place / tool.name.split()[0]).exists():
            print(f"{tool.name}: not installed, left out")
        else:
            chosen.append((tool, place))
    runs: dict[str, dict[str, tuple[bool, Run]]] = {tool.name: {} for tool, _ in chosen}
    print("| directory | " + " | ".join(runs) + " |\n|" + " --- |" * (len(runs) + 1))
    for directory in arguments.directories:
        cells = []
        for tool, place in chosen:
            run = measured(tool.call(place, directory))
            flagged = tool.flags(run)
            runs[tool.name][str(directory)] = flagged, run
            cells.append("timeout" if run.status is None else f"flags ({run.status})" if flagged else "-")
        print(f"| {directory.name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\n| tool | flagged of {len(arguments.directories)} | median s | largest MB |\n| --- | --- | --- | --- |")
    for name, of in runs.items():
        seconds = statistics.median(run.seconds for _, run in of.values())
        print(f"| {name} | {sum(flag for flag, _ in of.values())} | {seconds:.2f} | {max(run.megabytes for _, run in of.values()):.0f} |")
    if arguments.json:
        log = {n: {d: [f, r.status, r.seconds, r.megabytes, r.output[-2000:]] for d, (f, r) in of.items()} for n, of in runs.items()}
        arguments.json.write_text(json.dumps(log, indent=1))


if __name__ == "__main__":
    main()
