"""Score the light tier of `check` on a corpus of real adapters: `python benchmarks/check_corpus.py --corpus DIR`.

DIR has `adapters.jsonl` with a verdict per directory of `adapters/`, LFS pointers under `lfs_pointers/`, lone configs under `configs/`.
Healthy adapters must have nothing at warning or above, broken ones an error, all others a warning or worse.
"""

from __future__ import annotations

import argparse
import collections
import json
import shutil
import tempfile
from pathlib import Path

from loradoctor.checkpoint.run import CheckOptions, check_many
from loradoctor.diagnostic import Diagnostic, Severity

LIGHT = CheckOptions(base="none")


def findings(directory: Path) -> list[Diagnostic]:
    return list(check_many([str(directory)], LIGHT).at_least(Severity.WARNING))


def agrees(verdict: str, found: list[Diagnostic]) -> bool:
    if any(d.code == "LD002" for d in found):
        return False
    if verdict == "healthy":
        return not found
    worst = max((d.severity.rank for d in found), default=-1)
    return worst >= (Severity.ERROR if verdict == "broken" else Severity.WARNING).rank


def score_adapters(corpus: Path) -> tuple[int, int]:
    right = total = 0
    for line in (corpus / "adapters.jsonl").read_text().splitlines():
        entry = json.loads(line)
        found = findings(corpus / "adapters" / entry["dir"])
        fits = agrees(entry["verdict"], found)
        right, total = right + fits, total + 1
        if found or not fits:
            print(f"{'  ' if fits else '! '}{entry['dir']}\n     {entry['verdict']}: {entry['why']}")
            for d in found:
                print(f"     {d.severity}[{d.code}] {d.message}")
    return right, total


def score_pointers(corpus: Path) -> tuple[int, int]:
    directories = sorted(p for p in (corpus / "lfs_pointers").iterdir() if p.is_dir())
    named = [d for d in directories if any(f.code == "LD503" for f in findings(d))]
    return len(named), len(directories)


def score_configs(corpus: Path) -> tuple[int, int]:
    """Each config alone in a directory: it must be read without a crash; what it is told is counted."""
    counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
    files = sorted((corpus / "configs").glob("*.json"))
    crashed = 0
    with tempfile.TemporaryDirectory() as temporary:
        for file in files:
            directory = Path(temporary, file.stem)
            directory.mkdir()
            shutil.copy(file, directory / "adapter_config.json")
            found = [d for d in findings(directory) if d.code != "LD501"]
            crashed += any(d.code == "LD002" for d in found)
            counts.update((d.code, d.severity.value, d.message) for d in found)
    for (code, severity, message), count in sorted(counts.items()):
        print(f"  {count:3}x {severity}[{code}] {message}")
    return len(files) - crashed, len(files)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    corpus = parser.parse_args().corpus
    wrong = 0
    for title, score in (("adapters", score_adapters), ("LFS pointers", score_pointers), ("configs", score_configs)):
        right, total = score(corpus)
        wrong += total - right
        print(f"{title}: {right} of {total}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
