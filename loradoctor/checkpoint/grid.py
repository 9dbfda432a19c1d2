"""The layer x module grid of an adapter, and the holes in it that no design explains.

Without the base model nobody knows which layers exist. But a module that is adapted in most layers and missing in a few is
suspicious, unless something stands in its place there: a dense layer among experts, cross-attention among self-attention.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_LAYER = re.compile(r"(?:^|\.)(\d+)(?=\.)")
_EXPERT = re.compile(r"(.*\.\w*experts)\.(\d+)(\.[^.]+)")
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Hole:
    """``template`` is the module path with ``*`` for the layer; ``missing`` are the layers without it."""

    stack: str
    template: str
    missing: tuple[int, ...]
    present: int

    @property
    def modules(self) -> tuple[str, ...]:
        """The missing modules by name."""
        return tuple(self.template.replace("*", str(i), 1) for i in self.missing)


def holes(modules: Iterable[str]) -> Iterator[Hole]:
    """The holes in the grid of ``modules``, one per template, in the order of the file."""
    layers: dict[str, set[int]] = defaultdict(set)
    for module in modules:
        if match := _LAYER.search(module):
            layers[module[: match.start(1)] + "*" + module[match.end(1) :]].add(int(match[1]))
    stacks: dict[str, dict[str, set[int]]] = defaultdict(dict)
    for template, found in layers.items():
        stacks[template.partition("*")[0]][template] = found
    for stack, templates in stacks.items():
        yield from _of_stack(stack, templates)


def missing_experts(modules: Iterable[str]) -> tuple[str, ...]:
    """The modules of experts that are missing between others of the same layer: every expert of a layer is adapted, or none."""
    numbers: dict[tuple[str, str], set[int]] = defaultdict(set)
    for module in modules:
        if match := _EXPERT.fullmatch(module):
            numbers[match[1], match[3]].add(int(match[2]))
    return tuple(
        f"{before}.{number}{after}"
        for (before, after), present in numbers.items()
        if len(present) * 2 > max(present)
        for number in sorted(set(range(max(present))) - present)
    )


def without_first_layer(modules: Iterable[str]) -> tuple[str, ...]:
    """The modules of layer 0 when the whole layer is missing and all later ones up to the last are there; else none."""
    found = list(modules)
    gaps = [hole for hole in holes(found) if hole.missing == (0,)]
    first = [m for m in found if (match := _LAYER.search(m)) and int(match[1]) == 0]
    covered = {hole.template for hole in gaps}
    templates = {m[: match.start(1)] + "*" + m[match.end(1) :] for m in found if (match := _LAYER.search(m))}
    return tuple(m for hole in gaps for m in hole.modules) if gaps and not first and covered == templates else ()


def _of_stack(stack: str, templates: Mapping[str, set[int]]) -> Iterator[Hole]:
    whole = set().union(*templates.values())
    first = 0 if _starts_late(whole, templates) else min(whole)
    for template, present in templates.items():
        inside = set(range(min(present), max(present) + 1)) - present
        # Deeper numbering (experts, blocks of a stage) makes ragged edges normal; a gap between two of a kind is not.
        nested = len(_LAYER.findall(template.replace("*", "0"))) > 1
        edges = (
            set() if nested else _edges(template, present, set(range(first, max(whole) + 1)) - inside, templates, lost=first < min(whole))
        )
        missing = inside | edges
        if missing and len(missing) <= len(present) and not _alternates(missing) and not _replaced(missing, present, templates):
            yield Hole(stack, template, tuple(sorted(missing)), len(present))


def _edges(template: str, present: set[int], layers: set[int], templates: Mapping[str, set[int]], *, lost: bool) -> set[int]:
    """The one layer missing at an end, when the module's companions are there: `v_proj` gone where `q_proj` is.

    More than one, or without a companion, is a design: dense layers first, shared keys last, no reduction after the last stage.
    """
    edge = layers - present
    if lost and edge == {0}:
        return edge
    parent = template.rpartition(".")[0]
    companions = [found for other, found in templates.items() if other != template and other.rpartition(".")[0] == parent]
    return edge if len(edge) == 1 and any(edge <= found and found & present for found in companions) else set()


def _starts_late(whole: set[int], templates: Mapping[str, set[int]]) -> bool:
    """Layer 0 alone is missing everywhere although attention is adapted: PEFT drops it when another adapter is called `0`."""
    return min(whole) == 1 and len(whole) > 1 and any(_ATTENTION.search(t) for t in templates)


def _alternates(missing: set[int]) -> bool:
    """Whether the gaps come at a steady distance, the last perhaps excepted: then the architecture alternates."""
    ordered = sorted(missing)
    steps = [b - a for a, b in itertools.pairwise(ordered)]
    return len(steps) >= 2 and steps[0] > 1 and len(set(steps[:-1] if len(steps) > 2 else steps)) == 1


def _replaced(missing: set[int], present: set[int], templates: Mapping[str, set[int]]) -> bool:
    """Whether another module lives only where this one does not: it stands in its place."""
    return any(found & missing and not found & present for found in templates.values())
