"""Tensors held against their method's table: what is missing, what is too much, which shapes do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import EllipsisType

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.methods.dims import Shape, Size
from loradoctor.checkpoint.methods.table import Layout, Part, Problem, Shapes, Switch, Table

Given = Mapping[str, tuple[int, str]]
"""Symbol → size and the config field it comes from."""


@dataclass(frozen=True, slots=True)
class Clash:
    """The tensor ``role`` has the shape ``found``; ``wanted`` says in words which one it should have."""

    role: str
    found: tuple[int, ...]
    wanted: str


@dataclass(frozen=True, slots=True)
class Wrong:
    """A size of the config that the tensors contradict while they agree with each other: ``actual`` is what they have."""

    symbol: str
    source: str
    value: int
    actual: int


@dataclass(frozen=True, slots=True)
class Fit:
    """``missing`` and ``strange`` are roles; ``off`` are roles that are there although their switch is off, ``lost`` the reverse.

    ``clashes`` are shapes that contradict each other or the config; ``wrong`` or ``turned`` say why when one change explains them
    all. ``sizes`` are those that follow from the shapes.
    """

    missing: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()
    off: tuple[tuple[str, Switch], ...] = ()
    lost: tuple[tuple[str, Switch], ...] = ()
    clashes: tuple[Clash, ...] = ()
    wrong: Wrong | None = None
    turned: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def given(table: Table, config: AdapterConfig, module: str) -> dict[str, tuple[int, str]]:
    """The sizes that the config gives for ``module``."""
    found = {p.symbol: p.of(config, module) for p in table.given}
    return {symbol: value for symbol, value in found.items() if value is not None}


def fit(layouts: Sequence[Layout], config: AdapterConfig, shapes: Shapes, sizes: Given) -> Fit:
    """How tensors fit the best of ``layouts``; an empty fit when there is none."""
    best = min((_against(layout, config, shapes, sizes) for layout in layouts), key=_badness, default=None)
    if best is None or not best[0].clashes:
        return best[0] if best is not None else Fit()
    return _explained(best[0], best[1], shapes, sizes)


def _badness(candidate: tuple[Fit, Mapping[str, Shape]]) -> tuple[int, int, int]:
    found, _ = candidate
    return len(found.strange) + len(found.missing), len(found.off) + len(found.lost), len(found.clashes)


def _against(layout: Layout, config: AdapterConfig, shapes: Shapes, sizes: Given) -> tuple[Fit, dict[str, Shape]]:
    parts = layout.parts
    there = {role: parts[role].shape for role in shapes if role in parts}
    clashes, solved = solve(there, shapes, _values(sizes))
    off = [(role, switch) for role in there if (switch := parts[role].switch) is not None and not switch.holds(config)]
    off += [(next(iter(parts)), switch) for switch in layout.switches if not switch.holds(config)]
    return Fit(
        missing=tuple(role for role, part in parts.items() if role not in shapes and part.switch is None and not part.optional),
        strange=tuple(role for role in shapes if role not in parts),
        off=tuple(off),
        lost=tuple((r, p.switch) for r, p in parts.items() if r not in shapes and p.switch is not None and _wanted(p, config)),
        clashes=clashes,
        sizes=solved,
    ), there


def _values(sizes: Given) -> dict[str, int]:
    return {symbol: value for symbol, (value, _) in sizes.items()}


def _wanted(part: Part, config: AdapterConfig) -> bool:
    return part.switch is not None and part.switch.holds(config) and not part.optional


def _explained(found: Fit, parts: Mapping[str, Shape], shapes: Shapes, sizes: Given) -> Fit:
    """The same fit with the reason of its clashes: one size of the config wrong, or factors turned round."""
    known = _values(sizes)
    for symbol, (value, source) in sizes.items():
        clashes, solved = solve(parts, shapes, {s: v for s, v in known.items() if s != symbol})
        if not clashes and symbol in solved:
            return replace(found, wrong=Wrong(symbol, source, value, solved[symbol]))
    return replace(found, turned=_turned(found, parts, shapes, known))


def _turned(found: Fit, parts: Mapping[str, Shape], shapes: Shapes, known: Mapping[str, int]) -> tuple[str, ...]:
    """The roles whose transposition, or exchange with their partner, makes everything fit."""
    flat = [role for role in parts if len(shapes[role]) == 2]
    clashing = [c.role for c in found.clashes if c.role in flat]
    for roles in (clashing, flat, *([role] for role in flat)):
        if roles and not solve(parts, {**shapes, **{r: shapes[r][::-1] for r in roles}}, known)[0]:
            return tuple(roles)
    for role in parts:
        other = partner(role)
        if other in parts and role < other and not solve(parts, {**shapes, role: shapes[other], other: shapes[role]}, known)[0]:
            return role, other
    return ()


_PAIRS = (("_a", "_b"), ("_A", "_B"), ("_A_general", "_B_general"), ("_A_topk_weights", "_B_topk_weights"))
_HALVES = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}


def partner(role: str) -> str:
    """The other half of a low-rank pair by its name: `hada_w1_a` → `hada_w1_b`; ``""`` when the role is none."""
    stem, _, rest = role.partition(".")
    if rest in ("Xd", "Xu"):
        return f"{stem}.{'Xu' if rest == 'Xd' else 'Xd'}"
    for ending, other in _HALVES.items():
        if not rest and stem.endswith(ending):
            return stem.removesuffix(ending) + other
    return ""


def solve(parts: Mapping[str, Shape], shapes: Shapes, known: Mapping[str, int]) -> tuple[tuple[Clash, ...], dict[str, int]]:
    """Every shape that contradicts the others or the ``known`` sizes, and the sizes that follow."""
    sizes = dict(known)
    clashing: set[str] = set()
    equations: list[tuple[str, Size, int]] = []
    for role, wanted in parts.items():
        axes = _aligned(wanted, shapes[role])
        if axes is None:
            clashing.add(role)
        else:
            equations += [(role, axis, size) for axis, size in zip(axes, shapes[role], strict=False)]
    progress = True
    while progress:
        progress = False
        for role, axis, size in equations:
            if isinstance(axis, int):
                continue
            found = axis.solve(size, sizes)
            if found is None:
                clashing.add(role)
            elif found:
                sizes |= found
                progress = True
    for role, axis, size in equations:
        expected = axis if isinstance(axis, int) else axis.value(sizes)
        if expected is not None and expected != size:
            clashing.add(role)
    return tuple(Clash(role, shapes[role], _text(parts[role], sizes)) for role in parts if role in clashing), sizes


def _aligned(wanted: Shape, found: tuple[int, ...]) -> list[Size] | None:
    """The axes that have a size, None when the number of axes is wrong."""
    axes = [axis for axis in wanted if not isinstance(axis, EllipsisType)]
    open_ended = len(axes) != len(wanted)
    return axes if len(found) == len(axes) or (open_ended and len(found) > len(axes)) else None


def _text(wanted: Shape, sizes: Mapping[str, int]) -> str:
    """``[4, in]``: sizes where they are known, else their names."""
    return "[" + ", ".join("…" if isinstance(axis, EllipsisType) else _shown(axis, sizes) for axis in wanted) + "]"


def _shown(axis: Size, sizes: Mapping[str, int]) -> str:
    value = axis if isinstance(axis, int) else axis.value(sizes)
    return str(axis) if value is None or int(value) != value else str(int(value))
