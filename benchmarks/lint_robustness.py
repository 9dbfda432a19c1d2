"""Run `lint` over code nobody wrote for it: every file below the given directories, and random mutations of real files.

    python benchmarks/lint_robustness.py DIR... [--mutations 2000] [--limit 10]

The filter that leaves files without relevant words alone is switched off. A file passes when it gets a report (of whatever
findings) within the limit; a report that says the check did not complete (LD002) is listed, and so is every crash.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from loradoctor.lint.pipeline import Pipeline


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="+", type=Path)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--limit", type=float, default=10.0, help="seconds a file may take")
    options = parser.parse_args()
    paths = sorted(p for d in options.directories for p in d.rglob("*.py") if p.is_file())
    failures = slow = 0
    pipeline = Pipeline()
    begin = time.perf_counter()
    slowest = (0.0, "")
    for count, (name, data) in enumerate(inputs(paths, options.mutations), 1):
        start = time.perf_counter()
        try:
            report = pipeline.examine(name, data)
        except Exception as error:
            failures += 1
            print(f"crash: {name}: {type(error).__name__}: {error}")
            continue
        seconds = time.perf_counter() - start
        slowest = max(slowest, (seconds, name))
        if seconds > options.limit:
            slow += 1
            print(f"slow: {name}: {seconds:.1f} s")
        for diagnostic in report.diagnostics:
            if diagnostic.code == "LD002":
                failures += 1
                print(f"LD002: {name}: {diagnostic.message}")
        if sys.stderr.isatty() and count % 200 == 0:
            print(f"\r{count}", end="", file=sys.stderr)
    seconds = time.perf_counter() - begin
    print(f"{count} inputs in {seconds:.0f} s: {failures} not completed, {slow} over {options.limit:g} s")
    print(f"slowest: {slowest[0]:.1f} s ({slowest[1]})")
    return 1 if failures or slow else 0


def inputs(paths: list[Path], mutations: int) -> Iterator[tuple[str, bytes]]:
    for path in paths:
        yield str(path), path.read_bytes()
    rng = random.Random(20)
    small = [p for p in paths if 200 < p.stat().st_size < 20_000]
    for number in range(mutations if small else 0):
        path = rng.choice(small)
        data = bytearray(path.read_bytes())
        for _ in range(rng.randint(1, 8)):
            spot = rng.randrange(len(data))
            match rng.randrange(3):
                case 0:
                    data[spot] = rng.randrange(256)
                case 1:
                    del data[spot : spot + rng.randint(1, 20)]
                case _:
                    data[spot:spot] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
            if not data:
                break
        yield f"{path}#{number}.py", bytes(data)


if __name__ == "__main__":
    sys.exit(main())
