"""`lora_A` and `lora_B` exchanged or transposed: which of the two, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loradoctor.checkpoint.key import PREFIX, Key
from loradoctor.checkpoint.methods.lora import turned
from loradoctor.repair.draft import Draft
from loradoctor.repair.pairs import both_halves
from loradoctor.repair.plan import TRANSPOSE

_SAME_INPUT = (
    frozenset({"q_proj", "k_proj", "v_proj"}), frozenset({"query", "key", "value"}), frozenset({"gate_proj", "up_proj"}),
    frozenset({"w1", "w3"}), frozenset({"wi_0", "wi_1"}), frozenset({"q_lin", "k_lin", "v_lin"}),
)  # fmt: skip
"""Modules of one parent that read the same activations, so that their `in` is one number, in every architecture that has them."""
_INPUT_WIDTH = frozenset({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "query", "key", "value"})
_OUTPUT_WIDTH = frozenset({"o_proj", "down_proj"})


@dataclass(frozen=True, slots=True)
class _Turned:
    """A module whose halves both have the rank on the other axis; ``a`` and ``b`` are shapes as they stand in the file."""

    module: str
    a_key: Key
    b_key: Key
    a: tuple[int, ...]
    b: tuple[int, ...]

    @property
    def exchanged(self) -> tuple[int, int]:
        """(in, out) if the names are exchanged."""
        return self.b[1], self.a[0]

    @property
    def transposed(self) -> tuple[int, int]:
        """(in, out) if both are transposed."""
        return self.a[0], self.b[1]


def halves(draft: Draft) -> None:
    """Exchange the names or transpose the matrices, whichever the shapes of the base, or of neighbours, demand."""
    found = _find(draft)
    if not found:
        return
    votes = {vote for one in found if (vote := _by_base(draft, one))} or _by_neighbours(draft, found)
    if len(votes) != 1:
        draft.refuse(
            f"`lora_A` and `lora_B` are exchanged or transposed in {len(found)} modules, and the shapes fit both readings",
            "the base model (`--base`) when `in` and `out` differ somewhere; else the converter that wrote the file",
        )
        return
    if votes == {"exchanged"}:
        names = {}
        for one in found:
            names[one.a_key.name], names[one.b_key.name] = one.b_key.name, one.a_key.name
        draft.rename(names, "the names of the two halves were exchanged: `lora_A` is (rank, in), `lora_B` (out, rank)")
    else:
        both = [key.name for one in found for key in (one.a_key, one.b_key)]
        draft.transform(both, lambda _: (TRANSPOSE,), "stored transposed: `lora_A` is (rank, in), `lora_B` (out, rank)")


def _find(draft: Draft) -> list[_Turned]:
    checkpoint = draft.checkpoint
    config = draft.lora
    if config is None or config.get("target_parameters") or config.get("use_bdlora"):
        return []
    found = []
    for module, roles in checkpoint.by_module.items():
        pair = both_halves(roles)
        if pair is None or not turned(config, module, roles, checkpoint.tensors):
            continue
        a, b = pair
        found.append(_Turned(module, a, b, checkpoint.tensors[a.name].shape, checkpoint.tensors[b.name].shape))
    return found


def _by_base(draft: Draft, one: _Turned) -> str:
    """What the shapes that PEFT makes for this module say; empty when they say nothing, or fit both."""
    loads = draft.evidence.loads if draft.evidence is not None else None
    expected: Mapping[str, tuple[int, ...]] = loads.expected if loads is not None else {}
    suffix = "" if "embedding" in one.a_key.role else ".weight"
    a = expected.get(f"{PREFIX}{one.module}.{one.a_key.role}{suffix}")
    b = expected.get(f"{PREFIX}{one.module}.{one.b_key.role}{suffix}")
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return ""
    wanted = (a[1], b[0])
    fits = [name for name in ("exchanged", "transposed") if getattr(one, name) == wanted]
    return fits[0] if len(fits) == 1 else ""


def _by_neighbours(draft: Draft, found: list[_Turned]) -> set[str]:
    """The readings under which modules that share a width have one number for it; empty when neither or both do."""
    upright = _upright(draft, {one.module for one in found})
    possible = set()
    for reading in ("exchanged", "transposed"):
        widths = {one.module: (getattr(one, reading)[0], getattr(one, reading)[1]) for one in found}
        if _coherent({**upright, **widths}):
            possible.add(reading)
    return possible if len(possible) == 1 else set()


def _upright(draft: Draft, turned_ones: set[str]) -> dict[str, tuple[int, int]]:
    """(in, out) of the modules whose halves stand as they should."""
    tensors = draft.checkpoint.tensors
    widths = {}
    for module, roles in draft.checkpoint.by_module.items():
        pair = both_halves(roles)
        if module in turned_ones or pair is None:
            continue
        a, b = tensors[pair[0].name].shape, tensors[pair[1].name].shape
        if len(a) == 2 and len(b) == 2:
            widths[module] = (a[1], b[0])
    return widths


def _coherent(widths: Mapping[str, tuple[int, int]]) -> bool:
    inputs: dict[tuple[str, frozenset[str]], set[int]] = {}
    hidden: dict[str, set[int]] = {}
    for module, (inside, outside) in widths.items():
        parent, _, short = module.rpartition(".")
        for group in _SAME_INPUT:
            if short in group:
                inputs.setdefault((parent, group), set()).add(inside)
        stack = module.partition(".layers.")[0] if ".layers." in module else ""
        if stack and short in _INPUT_WIDTH:
            hidden.setdefault(stack, set()).add(inside)
        if stack and short in _OUTPUT_WIDTH:
            hidden.setdefault(stack, set()).add(outside)
        if short == "embed_tokens":
            hidden.setdefault(parent, set()).add(outside)
    return all(len(found) == 1 for found in (*inputs.values(), *hidden.values()))
