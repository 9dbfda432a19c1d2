"""What the values of real adapters look like, behind the thresholds of the LD7xx rules: `python benchmarks/thresholds.py DIR ...`.

Every adapter found below the directories is read once (the light tier, nothing is loaded); broken ones and exact copies are left out. The
table gives, per quantity, the range over adapters of its most extreme value, and over modules or tensors its quantiles. docs/thresholds.md
says what follows from them.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from loradoctor.checkpoint import family
from loradoctor.checkpoint.checkpoint import Checkpoint, read
from loradoctor.checkpoint.rules import precision_range

QUANTILES = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)
TITLES = {
    "absmax / median of its half": "LD707: the largest value of a tensor against those of the same half in the other modules",
    "absmax / rms": "LD707: the largest value of a tensor against its own root mean square",
    "norm / family": "LD707: ‖ΔW‖ against the median of the module's family",
    "robust z of log norm": "LD707: the same in robust standard deviations of the family's log norms",
    "smallest / largest singular value": "LD708: how far the last direction is from rounding",
    "effective rank / rank": "card: entropy of the singular values",
    "dominance": "card: share of the first direction in the squared norm",
    "largest singular value": "LD706: no element of ΔW is larger",
    "float16 rounding / rms": "LD706: what rounding to float16 costs, by tensor (float16 files and what others would lose)",
    "subnormal share": "LD706: values below the normal range of their dtype",
    "zero share": "LD703: values that are exactly zero",
}


def adapters(roots: list[Path]) -> Iterator[Checkpoint]:
    """Every adapter below ``roots`` that has tensors and is no copy of an earlier one."""
    seen: set[str] = set()
    for config in sorted(c for root in roots for c in root.rglob("adapter_config.json")):
        checkpoint = read(str(config.parent), config.parent)
        if checkpoint.weights is None or not checkpoint.tensors:
            continue
        digest = hashlib.sha256(checkpoint.weights.read_bytes()).hexdigest()
        if digest not in seen and all(s.is_finite for s in checkpoint.values().values()) and checkpoint.structurally_broken is None:
            seen.add(digest)
            yield checkpoint


def quantities(checkpoint: Checkpoint) -> dict[str, list[float]]:
    """Quantity → its value for each tensor, module or family of one adapter."""
    found: dict[str, list[float]] = defaultdict(list)
    halves: defaultdict[str, list[float]] = defaultdict(list)
    for key in checkpoint.keys:
        stats = checkpoint.values().get(key.name)
        if stats is None or not stats.count or stats.is_zero or not checkpoint.tensors[key.name].is_float or not key.role:
            continue
        halves[key.role].append(stats.absmax)
        found["absmax / rms"].append(stats.absmax / stats.rms)
        found["float16 rounding / rms"].append(precision_range.ROUNDING / stats.rms)
        found["subnormal share"].append(stats.subnormals / stats.count)
        found["zero share"].append(stats.zeros / stats.count)
    for sizes in halves.values():
        found["absmax / median of its half"] += [s / median(sizes) for s in sizes if len(sizes) >= family.FEWEST]
    for spectrum in (s for s in checkpoint.spectra() if s.largest > 0):
        found["largest singular value"].append(spectrum.largest)
        if spectrum.rank < min(spectrum.shape):
            found["smallest / largest singular value"].append(float(spectrum.values[-1]) / spectrum.largest)
        found["effective rank / rank"].append(spectrum.effective_rank / len(spectrum.values))
        found["dominance"].append(spectrum.dominance)
    for one in family.families(checkpoint.spectra()):
        for spectrum in one.members:
            if len(one.members) >= family.FEWEST and spectrum.largest > 0:
                found["norm / family"].append(spectrum.norm / one.norm)
                found["robust z of log norm"].append(one.distance(spectrum))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directories", nargs="+", type=Path)
    parser.add_argument("--each", action="store_true", help="a line per adapter too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    everything: defaultdict[str, list[float]] = defaultdict(list)
    extremes: defaultdict[str, list[float]] = defaultdict(list)
    count = 0
    for checkpoint in adapters(options.directories):
        count += 1
        found = quantities(checkpoint)
        for name, values in found.items():
            usable = [v for v in values if math.isfinite(v)]
            everything[name] += usable
            extremes[name] += [max(usable, default=0.0)]
        if options.each:
            print(checkpoint.path, {k: (f"{min(v):.2g}", f"{max(v):.2g}") for k, v in found.items() if v})
    print(f"{count} adapters\n")
    print(f"{'quantity':36} {'n':>6}  " + " ".join(f"{f'q{q:g}':>9}" for q in QUANTILES) + "   adapter's largest: median, 90 %")
    for name, title in TITLES.items():
        if everything[name]:
            row = " ".join(f"{v:9.3g}" for v in np.quantile(everything[name], QUANTILES))
            high = "  ".join(f"{v:.3g}" for v in np.quantile(extremes[name], (0.5, 0.9)))
            print(f"{name:36} {len(everything[name]):6}  {row}   {high}\n    {title}")


if __name__ == "__main__":
    main()
