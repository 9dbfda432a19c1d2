"""Score `loradoctor lint` on labelled places in public repositories.

    python benchmarks/lint_corpus.py --labels lint-labels.jsonl --repos DIR [--extract DIR] [--list] [--triage FILE]

DIR holds bare git directories as ``OWNER+NAME/repo``. Every labelled file is written out once, linted, and its findings are
held against the labels: a finding counts for a label when its ``refs`` meet those of the label's pattern and it starts within
three lines of the label (in a notebook: in the same cell). Recall is printed per pattern and severity, precision and recall per
repository, then every miss, then every finding on a place labelled ``ok``; ``--list`` adds all the others, for reading, and
``--triage`` writes them as a table: rule, severity, repository, place, message.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from loradoctor.config import Settings
from loradoctor.diagnostic import Diagnostic, Severity

REFS: dict[str, str] = {
    "nested-wrap": "LO1 MA10 LO9",
    "torch-save-load-mismatch": "LO4 LO5 SV6 SV10 LO3",
    "merge-result-discarded": "SV1 SV2",
    "merge-into-quantized": "MG2",
    "wrong-model-handed-on": "TR1 TR12",
    "kbit-without-prepare": "QT1 TR3",
    "optimizer-before-wrap": "TR2",
    "gradient-checkpointing": "TR6",
    "added-tokens-not-saved": "TK2 TK3 TK4",
    "resume-not-trainable": "LO2",
    "saving": "SV3 SV5 SV6 SV11 SV12 MG4 LO3",
    "eval-mode": "TR10",
    "deprecated": "DP QT2",
}
REACH = 3


@dataclass(frozen=True, slots=True)
class Label:
    """One labelled place; ``line`` counts in the cell for notebooks, None where the label knows no line."""

    repo: str
    commit: str
    path: str
    cell: int | None
    line: int | None
    pattern: str
    verdict: str
    reason: str

    @property
    def file(self) -> str:
        """Where the file is written under the extraction directory."""
        return f"{self.repo.replace('/', '+')}/{self.commit[:8]}/{self.path}"

    @property
    def place(self) -> str:
        """Readable position of the label."""
        where = self.file if self.cell is None else f"{self.file}:cell {self.cell}"
        return f"{where}:{self.line or '?'}"

    def met_by(self, finding: Diagnostic) -> bool:
        """Whether the finding is about this label's pattern and starts near its place."""
        if not set(REFS[self.pattern].split()) & set(finding.refs):
            return False
        if self.line is None:
            return self.cell in (None, finding.location.cell)
        span = finding.location.span
        return span is not None and finding.location.cell == self.cell and abs(span.line - self.line) <= REACH


def read_labels(path: Path) -> list[Label]:
    labels = []
    for row in map(json.loads, path.read_text().splitlines()):
        notebook = row.get("cell") is not None
        line = row["cell_line"] if notebook else row["line"]
        verdict = "ok" if row["label"] == "ok" else row["severity"]
        approximate = row.get("line_approx") and not notebook
        labels.append(
            Label(
                row["repo"],
                row["commit"],
                row["path"],
                row.get("cell"),
                None if approximate else line,
                row["pattern"],
                verdict,
                row["reason"],
            )
        )
    return labels


def extract(labels: list[Label], repos: Path, target: Path) -> list[Path]:
    """Write every labelled file below ``target``; returns those that could be had."""
    written = []
    for label in {one.file: one for one in labels}.values():
        destination = target / label.file
        if not destination.exists():
            git = ["git", f"--git-dir={repos / label.repo.replace('/', '+') / 'repo'}", "show", f"{label.commit}:{label.path}"]
            shown = subprocess.run(git, capture_output=True, check=False)
            if shown.returncode:
                print(f"cannot extract {label.file}: {shown.stderr.decode(errors='replace').strip()}", file=sys.stderr)
                continue
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.write_bytes(shown.stdout)
        written.append(destination)
    return sorted(written)


def describe(finding: Diagnostic) -> str:
    span = finding.location.span
    cell = "" if finding.location.cell is None else f":cell {finding.location.cell}"
    return f"{finding.location.path}{cell}:{span.line if span else '-'} {finding.code} {finding.severity} {finding.message}"


def score(labels: list[Label], findings: list[Diagnostic], root: Path, available: set[str], covered: set[str]) -> set[int]:
    """Print recall, misses and false findings; returns the ids of the findings that some label explains."""
    by_file: dict[str, list[Diagnostic]] = defaultdict(list)
    for finding in findings:
        by_file[str(Path(finding.location.path).relative_to(root))].append(finding)
    tally: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    missed, false, explained = [], [], set()
    repositories: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for label in labels:
        if label.file not in available:
            continue
        met = [f for f in by_file[label.file] if label.met_by(f)]
        hits = [f for f in met if label.verdict != "ok" or f.severity is not Severity.INFO]
        explained |= {id(f) for f in hits}
        count = tally[label.pattern, label.verdict]
        count[0] += bool(hits)
        count[1] += 1
        mine = repositories[label.repo]
        if label.verdict == "ok":
            mine[2] += bool(hits)
        elif label.verdict in ("definite", "conditional"):
            mine[0] += bool(hits)
            mine[1] += 1
        if label.verdict == "ok":
            false += [(label, f) for f in hits]
        elif not hits:
            missed.append(label)
    print(f"{'pattern':26}" + "".join(f"{v:>16}" for v in ("definite", "conditional", "smell", "deprecated", "false on ok")))
    for pattern, refs in REFS.items():
        cells = [
            "{}/{}".format(*tally[pattern, v]) if (pattern, v) in tally else "-"
            for v in ("definite", "conditional", "smell", "deprecated", "ok")
        ]
        note = "" if covered & set(refs.split()) else "   (no rule yet)"
        print(f"{pattern:26}" + "".join(f"{c:>16}" for c in cells) + note)
    print(f"\n{'repository':60}{'recall':>10}{'precision':>12}   (definite and conditional; labelled places alone)")
    for repo, (hit, wanted, wrong) in sorted(repositories.items()):
        precision = f"{hit}/{hit + wrong}" if hit + wrong else "-"
        print(f"{repo:60}{f'{hit}/{wanted}' if wanted else '-':>10}{precision:>12}")
    print("\nmissed")
    for label in sorted(missed, key=lambda one: (one.verdict, one.pattern, one.file)):
        print(f"  {label.verdict:11} {label.pattern:24} {label.place}\n    {label.reason}")
    print("\nfound on a place labelled ok")
    for label, finding in false:
        place = describe(finding).removeprefix(f"{root}/")
        print(f"  {label.pattern:24} {label.place}\n    {place}\n    {label.reason}")
    return explained


def write_triage(others: list[Diagnostic], root: Path, target: Path) -> None:
    """A Markdown table of findings, one a line, for a reader to add a verdict to."""
    rows = ["| rule | severity | repository | place | message | verdict |", "| --- | --- | --- | --- | --- | --- |"]
    for finding in others:
        repository, _, path = str(Path(finding.location.path).relative_to(root)).partition("/")
        cell = "" if finding.location.cell is None else f":cell {finding.location.cell}"
        line = f":{finding.location.span.line}" if finding.location.span else ""
        message = finding.message.replace("|", "\\|")
        rows.append(f"| {finding.code} | {finding.severity} | {repository.replace('+', '/')} | {path}{cell}{line} | {message} | |")
    target.write_text("\n".join(rows) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--repos", type=Path, required=True)
    parser.add_argument("--extract", type=Path, help="write the files here and stop")
    parser.add_argument("--list", action="store_true", help="print every finding that no label explains")
    parser.add_argument("--triage", type=Path, help="write every finding that no label explains into a table")
    options = parser.parse_args()
    labels = read_labels(options.labels)
    if options.extract:
        print(f"{len(extract(labels, options.repos, options.extract))} files in {options.extract}")
        return 0
    from loradoctor import registry
    from loradoctor.lint.run import lint

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        files = extract(labels, options.repos, root)
        began = time.perf_counter()
        report = lint([str(f) for f in files], Settings())
        print(f"{len(files)} files in {time.perf_counter() - began:.1f} s, {len(report.diagnostics)} findings\n")
        covered = {ref for rule in registry.family("lint") for ref in rule.refs}
        explained = score(labels, list(report.diagnostics), root, {str(f.relative_to(root)) for f in files}, covered)
        others = [d for d in report.diagnostics if id(d) not in explained]
        trouble = [d for d in others if d.code == "LD002"]
        if options.triage:
            write_triage(others, root, options.triage)
        print(f"\nnot explained by any label: {len(others)}, of them checks that did not complete: {len(trouble)}")
        for finding in others if options.list else trouble:
            print(f"  {describe(finding)}".replace(f"{root}/", ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
