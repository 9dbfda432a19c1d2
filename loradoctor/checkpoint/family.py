"""Modules of one kind, layer by layer: what is usual for their updates, and which one is not."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from loradoctor.checkpoint.spectrum import Spectrum

FEWEST = 8
"""Members that a family needs before one of them can be unusual."""
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_SPREAD = math.log(1.25)
"""The least standard deviation of log norms that is believed: families of a few equal layers would make any difference an outlier."""


@dataclass(frozen=True, slots=True)
class Family:
    """Modules whose names differ only in numbers. ``name`` is the shortest end of their path that no other family of the adapter has.

    ``norm`` is the median of ‖ΔW‖, ``spread`` the robust standard deviation of its logarithm (1.4826 times the median absolute deviation,
    which is the standard deviation where that is normally distributed); both over members that are not zero.
    """

    name: str
    members: tuple[Spectrum, ...]
    norm: float
    spread: float

    def distance(self, member: Spectrum) -> float:
        """How many standard deviations the logarithm of a norm is above the median; minus infinity for a zero update."""
        return math.log(member.norm / self.norm) / self.spread if member.largest > 0 and self.norm > 0 else -math.inf


def template(module: str) -> str:
    """The module's path with ``*`` for every component that is a number."""
    return _NUMBER.sub("*", module)


def families(spectra: Iterable[Spectrum]) -> tuple[Family, ...]:
    """The families of one adapter in the order of their first members."""
    groups: defaultdict[str, list[Spectrum]] = defaultdict(list)
    for spectrum in spectra:
        groups[template(spectrum.module)].append(spectrum)
    names = _short(list(groups))
    return tuple(_family(names[path], members) for path, members in groups.items())


def _family(name: str, members: list[Spectrum]) -> Family:
    logs = [math.log(m.norm) for m in members if m.largest > 0]
    middle = median(logs) if logs else -math.inf
    deviation = median(abs(x - middle) for x in logs) if logs else 0.0
    return Family(name, tuple(members), math.exp(middle), max(1.4826 * deviation, _SPREAD))


def _short(paths: list[str]) -> dict[str, str]:
    """The shortest end of each path, in whole components, that is no other path's end."""
    ends: defaultdict[str, set[str]] = defaultdict(set)
    for path in paths:
        parts = path.split(".")
        for i in range(len(parts)):
            ends[".".join(parts[i:])].add(path)
    return {path: next((e for e in _ends(path) if len(ends[e]) == 1), path) for path in paths}


def _ends(path: str) -> Iterable[str]:
    parts = path.split(".")
    return (".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1) if parts[i] != "*")


def table(spectra: Iterable[Spectrum]) -> list[dict[str, object]]:
    """What the card says of each family, as plain JSON values: medians over its modules (every expert counts as one), range of ‖ΔW‖.

    ``zero`` are the members without effect; they are left out of the medians. ``rank`` is the largest in the family.
    """
    return [_row(family) for family in families(spectra)]


def _row(family: Family) -> dict[str, object]:
    live = [m for m in family.members if m.largest > 0]
    norms = [m.norm for m in live] or [0.0]
    return {
        "family": family.name,
        "modules": len(family.members),
        "zero": len(family.members) - len(live),
        "rank": max(m.rank for m in family.members),
        "norm": {"median": median(norms), "min": min(norms), "max": max(norms)},
        "effective_rank": median(m.effective_rank for m in live) if live else 0.0,
        "dominance": median(m.dominance for m in live) if live else 0.0,
    }
