"""Single files of kohya's scripts, ComfyUI's trainers and LyCORIS: an adapter per model of the pipeline, alpha in tensors.

LoRA (linear and convolution), LoHa and LoKr have the same tensors as PEFT's, under other names; the factor is alpha / rank, alpha
is the rank where it is missing (sd-scripts networks/lora.py, lycoris/modules). What PEFT computes differently is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.convert import flat, flux, lokr
from loradoctor.checkpoint.convert.base_model import BaseModel
from loradoctor.checkpoint.convert.parts import Material, Part, Piece, origins, plan, stated_alpha
from loradoctor.checkpoint.convert.scalar import number
from loradoctor.checkpoint.wording import listed
from loradoctor.repair.plan import Drop, Origin, Plan, Refusal, Transform, reshape, section

_UNLIKE_PEFT = {
    "lora_mid": "a Tucker core (`lora_mid`): its product with `lora_down` would have to be computed and rounded",
    "dora_scale": "DoRA (`dora_scale`), whose norm has an epsilon and sometimes another axis than PEFT's",
    "diff": "a full difference of weights (`diff`), no low-rank one",
    "diff_b": "a difference of biases (`diff_b`)",
    "oft": "OFT blocks, which LyCORIS and PEFT parametrise differently",
    "scalar": "a trained `scalar` beside alpha",
    "on_input": "(IA)³ of LyCORIS, which multiplies 1 + w where PEFT multiplies w",
}
_KINDS = {"lora_down": "LORA", "lora_A": "LORA", "hada": "LOHA", "lokr": "LOKR"}
_TOOL = "kohya's tensor"


@dataclass
class _Group:
    """One prefix on its way to a plan."""

    checkpoint: Checkpoint
    modules: Mapping[str, Mapping[str, str]]
    refusals: list[Refusal] = field(default_factory=list)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.checkpoint.tensors[name].shape


def convert(checkpoint: Checkpoint, bases: Mapping[str, BaseModel]) -> dict[str, Plan]:
    """One adapter for each prefix; the directory itself when there is only one."""
    found, strange = flat.groups(checkpoint.tensors)
    plans: dict[str, Plan] = {}
    for prefix, modules in found.items():
        component, made = _converted(_Group(checkpoint, modules), prefix, bases)
        while component in plans:
            component += "_"
        plans[component] = made
    if strange or not found:
        refused = Refusal(f"{listed(strange) or 'no tensor'} belongs to no module of a known prefix")
        plans["other"] = plan(Material((), {}, refusals=(refused,), tool=_TOOL))
    return {"": next(iter(plans.values()))} if len(plans) == 1 else plans


def _converted(group: _Group, prefix: str, bases: Mapping[str, BaseModel]) -> tuple[str, Plan]:
    kinds = {kind for leaves in group.modules.values() if (kind := _kind(leaves))}
    checkpoint = group.checkpoint
    for mark, what in _UNLIKE_PEFT.items():
        hit = [
            m for m, leaves in group.modules.items() if any(leaf == mark or leaf.startswith((f"{mark}.", f"{mark}_")) for leaf in leaves)
        ]
        if hit and mark not in kinds:
            group.refusals.append(Refusal(f"`{hit[0]}` has {what}"))
    if len(kinds) != 1:
        group.refusals.append(Refusal(f"the modules have tensors of {' and '.join(sorted(kinds)) or 'no method'} that PEFT has"))
    method = min(kinds, default="LORA")
    component, base = prefix.rstrip("_."), None
    resolved = flat.resolve(prefix, list(group.modules), bases, lambda written, shape: _fits(group, written, shape))
    parts: list[Part] = []
    fields: dict[str, object] = {}
    stacked = flux.resolve(group.modules, bases) if isinstance(resolved, Refusal) and method == "LORA" else None
    if stacked is not None and not group.refusals:
        component, base = stacked[0] or component, bases[stacked[0]]
        for written, modules in stacked[1].items():
            cut = _stack(group, modules, group.modules[written], base)
            parts += [] if isinstance(cut, Refusal) else cut
            group.refusals += [cut] if isinstance(cut, Refusal) else []
    elif isinstance(resolved, Refusal):
        group.refusals.append(resolved)
    elif not group.refusals:
        component, base = resolved.component or component, bases[resolved.component]
        shapes = {resolved.modules[w]: base.modules[resolved.modules[w]] for w in group.modules}
        for written, leaves in group.modules.items():
            part = _part(group, method, resolved.modules[written], leaves, base)
            parts += [part] if isinstance(part, Part) else []
            group.refusals += [part] if isinstance(part, Refusal) else []
        if method == "LOKR" and not group.refusals:
            parts, fields, refused = lokr.settle(parts, group.checkpoint.tensors, shapes)
            group.refusals += refused
        if method == "LOHA":
            fields = {"use_effective_conv2d": any("hada_t1" in p.tensors for p in parts)}
    sources: dict[str, Origin] = {}
    if checkpoint.weights is not None:
        sources = origins(checkpoint.weights, {n: checkpoint.tensors[n] for leaves in group.modules.values() for n in leaves.values()})
    material = Material(
        tuple(parts),
        sources,
        fields,
        _old(checkpoint),
        drops=tuple(Drop(leaves["alpha"], "its value is in the config") for leaves in group.modules.values() if "alpha" in leaves),
        refusals=tuple(group.refusals),
        tool=_TOOL,
        notes=_notes(group),
    )
    return component, plan(material, base, method)


def _old(checkpoint: Checkpoint) -> Mapping[str, object]:
    return dict(checkpoint.config.raw) if checkpoint.config is not None else {}


def _notes(group: _Group) -> tuple[str, ...]:
    if all("alpha" in leaves for leaves in group.modules.values()):
        return ()
    if group.checkpoint.config is not None:
        return ("there is no alpha for some modules: the result has the one of `adapter_config.json`, else the rank (factor 1)",)
    return ("there is no alpha for some modules: kohya's scripts and diffusers then take the rank (factor 1), and so does the result",)


def _kind(leaves: Mapping[str, str]) -> str:
    return next((kind for mark, kind in _KINDS.items() if any(leaf.startswith(mark) for leaf in leaves)), "")


def _fits(group: _Group, written: str, shape: tuple[int, ...]) -> bool:
    """Whether the outer lengths of the halves are those of the weight."""
    leaves = group.modules[written]
    if _kind(leaves) != "LORA":
        return _count(group, leaves) in (None, shape[0])
    down, up = _halves(leaves)
    return not down or not up or (group.shape(up)[0] == shape[0] and group.shape(down)[1:2] == shape[1:2])


def _count(group: _Group, leaves: Mapping[str, str]) -> int | None:
    """Output rows of the update of a LoHa (without core); None where the shapes alone do not say."""
    name = leaves.get("hada_w1_a")
    return group.shape(name)[0] if name and "hada_t1" not in leaves else None


def _halves(leaves: Mapping[str, str]) -> tuple[str, str]:
    pairs = (("lora_down.weight", "lora_up.weight"), ("lora_A.weight", "lora_B.weight"))
    return next(((leaves[a], leaves[b]) for a, b in pairs if a in leaves and b in leaves), ("", ""))


def _part(group: _Group, method: str, module: str, leaves: Mapping[str, str], base: BaseModel) -> Part | Refusal:
    wanted = base.modules[module]
    if method == "LORA":
        return _lora(group, module, leaves, wanted)
    tensors = {leaf: Piece(name) for leaf, name in leaves.items() if leaf != "alpha"}
    if method == "LOKR":
        return lokr.part(
            module,
            {leaf: group.shape(piece.source) for leaf, piece in tensors.items()},
            tensors,
            lambda r: _alpha(group, module, leaves, r),
        )
    if not {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= tensors.keys():
        return Refusal(f"`{module}` has only {listed(sorted(tensors))} of a LoHa")
    rank = group.shape(leaves["hada_w1_b"])[0]
    found = {leaf: group.shape(piece.source) for leaf, piece in tensors.items()}
    if found not in _loha(rank, wanted):
        return Refusal(f"`{module}` has other shapes than PEFT's LoHa on a weight {list(wanted)}", "the base it was trained on")
    alpha = _alpha(group, module, leaves, rank)
    return alpha if isinstance(alpha, Refusal) else Part(module, rank, alpha, tensors)


def _loha(rank: int, weight: tuple[int, ...]) -> Iterator[dict[str, tuple[int, ...]]]:
    """The shapes that PEFT may ask for: of matrices, and of a convolution with a core."""
    width = math.prod(weight[1:])
    yield {f"hada_w{n}_{half}": (weight[0], rank) if half == "a" else (rank, width) for n in "12" for half in "ab"}
    if any(n != 1 for n in weight[2:]):
        halves = {f"hada_w{n}_{half}": (rank, weight[0 if half == "a" else 1]) for n in "12" for half in "ab"}
        yield halves | {f"hada_t{n}": (rank, rank, *weight[2:]) for n in "12"}


def _alpha(group: _Group, module: str, leaves: Mapping[str, str], rank: int) -> float | Refusal:
    """The alpha of one module: its tensor, else what PEFT's config beside it says, else the rank."""
    checkpoint = group.checkpoint
    stated = stated_alpha(checkpoint, module, rank)
    name = leaves.get("alpha")
    value = None
    if name is not None and checkpoint.weights is not None:
        try:
            value = number(checkpoint.weights, checkpoint.tensors[name])
        except OSError:
            return Refusal(f"`{name}` cannot be read")
        if value is None or not math.isfinite(value):
            return Refusal(f"`{name}` is not a finite number")
    # A zero means "the rank" to the scripts that write it (sd-scripts networks/lora.py, LoRAModule.__init__).
    if not value:
        return rank if stated is None else stated
    if stated is not None and stated != value:
        return Refusal(f"`{name}` is {value:g}, but the config beside it says {stated:g}", "which of them the training used")
    return value


def _lora(group: _Group, module: str, leaves: Mapping[str, str], wanted: tuple[int, ...]) -> Part | Refusal:
    down, up = _halves(leaves)
    extra = [leaf for leaf in leaves if leaf != "alpha" and leaves[leaf] not in (down, up)]
    if not down or extra:
        return Refusal(f"`{module}` has {listed(extra or sorted(leaves))}, which is not the two halves of a LoRA")
    first, second = group.shape(down), group.shape(up)
    rank = first[0]
    if len(wanted) not in (2, 4) or len(first) not in (2, 4) or len(second) not in (2, 4):
        return Refusal(f"`{module}` is neither a linear layer nor a 2D convolution")
    kernel = wanted[2:]
    halves = ((rank, wanted[1], *kernel), (wanted[0], rank, *(1 for _ in kernel)))
    moves: list[tuple[Transform, ...]] = []
    for shape, target in zip((first, second), halves, strict=True):
        # A convolution with a kernel of one is a linear layer: both spellings have the same elements in the same order.
        if _squeezed(shape) != _squeezed(target) or shape[:2] != target[:2]:
            return Refusal(
                f"`{module}` has a tensor of shape {list(shape)} where the base needs {list(target)}", "the base it was trained on"
            )
        moves.append(() if shape == target else (reshape(*target),))
    tensors = {"lora_A.weight": Piece(down, moves[0]), "lora_B.weight": Piece(up, moves[1])}
    alpha = _alpha(group, module, leaves, rank)
    return alpha if isinstance(alpha, Refusal) else Part(module, rank, alpha, tensors)


def _stack(group: _Group, modules: tuple[str, ...], leaves: Mapping[str, str], base: BaseModel) -> list[Part] | Refusal:
    """The parts of one written layer whose rows belong to several modules, from the first to the last."""
    down, up = _halves(leaves)
    if len(modules) == 1:
        part = _lora(group, modules[0], leaves, base.modules[modules[0]])
        return part if isinstance(part, Refusal) else [part]
    first, second = (group.shape(down), group.shape(up)) if down else ((), ())
    rows = [base.modules[m][0] for m in modules]
    if len(first) != 2 or second != (sum(rows), first[0]) or any(base.modules[m][1:] != first[1:] for m in modules):
        return Refusal(f"the rows of {listed(modules)} are not those of the stacked layer", "the base it was trained on")
    alpha = _alpha(group, modules[0], leaves, first[0])
    if isinstance(alpha, Refusal):
        return alpha
    starts = [sum(rows[:n]) for n in range(len(rows))]
    return [
        Part(
            module,
            first[0],
            alpha,
            {
                "lora_A.weight": Piece(down, (), "shared by the modules that were one stacked layer"),
                "lora_B.weight": Piece(up, (section(0, start, start + count),), "its rows of the stacked layer"),
            },
        )
        for module, start, count in zip(modules, starts, rows, strict=True)
    ]


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:2], *(n for n in shape[2:] if n != 1))
