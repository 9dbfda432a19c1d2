"""How long `loradoctor lint` takes for one file, as ratios of medians measured side by side.

    python benchmarks/lint_speed.py [--script FILE] [--runs 15]

A file without a relevant word is compared with starting Python at all (at most 5x), a PEFT script with importing libcst and
parsing it (at most 1.6x). Exits 1 when a ratio is above its limit. The commands take turns, so that a busy machine slows all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIXTURE = Path(__file__).parents[1] / "fixtures" / "lint" / "adapter_on_adapter.py"
PARSE = "import libcst, sys; libcst.parse_module(open(sys.argv[1]).read())"
# What pip installs is compiled; a checkout is on its first run, unless the environment forbids it.
COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
PLAIN = (
    "import json\n\n\ndef total(rows):\n    return sum(row['price'] for row in rows)\n\n\nprint(total(json.load(open('rows.json'))))\n" * 20
)


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    shown = subprocess.run(command, capture_output=True, check=False, env=COMPILED)
    if shown.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} failed: {shown.stderr.decode()}")
    return time.perf_counter() - began


def medians(commands: dict[str, list[str]], runs: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, command in commands.items():
            took = seconds(command)
            if turn:  # the first turn fills the caches
                taken[name].append(took)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, default=FIXTURE, help="the PEFT script to measure")
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        plain = Path(directory) / "plain.py"
        plain.write_text(PLAIN)
        python, lint = [sys.executable], [sys.executable, "-m", "loradoctor", "lint", "--isolated"]
        took = medians(
            {
                "bare interpreter": [*python, "-c", "pass"],
                "lint, no relevant word": [*lint, str(plain)],
                "import libcst and parse": [*python, "-c", PARSE, str(options.script)],
                "lint, one PEFT script": [*lint, str(options.script)],
            },
            options.runs,
        )
    for name, median in took.items():
        print(f"{name:26}{1000 * median:8.1f} ms")
    limits = [
        ("no relevant word / bare", took["lint, no relevant word"] / took["bare interpreter"], 5.0),
        ("PEFT script / libcst", took["lint, one PEFT script"] / took["import libcst and parse"], 1.6),
    ]
    for name, ratio, limit in limits:
        print(f"{name:26}{ratio:8.2f} x   limit {limit} x   {'ok' if ratio <= limit else 'TOO SLOW'}")
    return int(any(ratio > limit for _, ratio, limit in limits))


if __name__ == "__main__":
    sys.exit(main())
