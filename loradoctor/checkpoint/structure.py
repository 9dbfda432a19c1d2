"""All tensors of an adapter held against their method's table, module by module and as a whole."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.fitting import Clash, Fit, fit, given
from loradoctor.checkpoint.methods.lora import expected_rank
from loradoctor.checkpoint.methods.table import Layout, Part, Shapes, Table
from loradoctor.checkpoint.methods.tables import table_of

WHOLE = frozenset({"", "base_model"})
"""Where tensors of the model as a whole are: `base_model.vera_A`, `prompt_embeddings`."""


@dataclass(frozen=True, slots=True)
class Structure:
    """``modules`` is how the tensors of each adapted module fit, ``shared`` how those of the model as a whole do.

    ``gaps`` are tensors that a module may lack, by role, with the modules that lack them while their like in other layers do not.
    """

    modules: Mapping[str, Fit]
    shared: Fit
    gaps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
NOTHING = Structure({}, Fit())


def structure(checkpoint: Checkpoint) -> Structure:
    """The fits of a checkpoint whose config and tensors can be held against each other; nothing for any other."""
    config = checkpoint.comparable
    if config is None:
        return NOTHING
    table = table_of(checkpoint.method.peft_type)
    shapes = {m: {r: checkpoint.tensors[k.name].shape for r, k in roles.items()} for m, roles in checkpoint.by_module.items()}
    common = {role: shape for m in WHOLE for role, shape in shapes.get(m, {}).items()}
    seen: dict[object, Fit] = {}
    modules: dict[str, Fit] = {}
    everything: dict[str, Shapes] = {}
    for module in checkpoint.adapted:
        everything[module] = _own(checkpoint, shapes[module])
        own = {**everything[module], **_borrowed(table, common, module)}
        sizes = _sizes(table, config, module)
        memo = (tuple(own.items()), tuple(sizes.items()))
        if memo not in seen:
            layouts = (*table.layouts_for(config, own.keys()), *table.layouts)
            layouts = tuple(replace(lay, parts={**lay.parts, **table.by_category}) for lay in layouts) if table.by_category else layouts
            seen[memo] = fit(layouts, config, own, sizes)
        found = seen[memo]
        problems = tuple(table.judge(config, module, own, found.sizes)) if not found.clashes else ()
        modules[module] = replace(found, problems=problems) if problems else found
    for module, clash in _turned_among_peers(everything, dense=table.dense).items():
        if not modules[module].clashes:
            modules[module] = replace(modules[module], clashes=(clash,), turned=(clash.role,))
    whole = _shared(table, config, common)
    counted = tuple(table.judge_all(config, everything, common))
    return Structure(modules, replace(whole, problems=counted) if counted else whole, _gaps(table, config, shapes, checkpoint.adapted))


def _own(checkpoint: Checkpoint, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The method's own tensors of a module: whole modules saved with it and trained tokens of LoRA have their own rules."""
    return {role: shape for role, shape in shapes.items() if checkpoint.method.owns(role)}


def _sizes(table: Table, config: AdapterConfig, module: str) -> dict[str, tuple[int, str]]:
    sizes = given(table, config, module)
    if config.peft_type == "ADALORA" and (rank := expected_rank(config, module)) is not None:
        sizes["r"] = (rank.value, rank.source)
    return sizes


def _borrowed(table: Table, common: Shapes, module: str) -> dict[str, tuple[int, ...]]:
    """The shared tensors of the category that ``module`` belongs to."""
    names = {stem: f"{stem}.{table.category(module)}" for stem in table.by_category}
    return {stem: common[name] for stem, name in names.items() if name in common}


def _template(module: str) -> str:
    """The module's path with ``*`` for its numbers: its like in other layers have the same."""
    return _NUMBER.sub("*", module)


def _turned_among_peers(modules: Mapping[str, Shapes], *, dense: bool) -> dict[str, Clash]:
    """Tensors whose axes are in another order than those of their like in most other layers.

    In a ``dense`` method a layer that goes the other way has all its tensors turned; there one must be as usual.
    """
    groups: dict[tuple[str, str], dict[tuple[int, ...], list[str]]] = {}
    for module, shapes in modules.items():
        template = _template(module)
        for role, shape in shapes.items():
            if len(shape) > 1:
                groups.setdefault((template, role), {}).setdefault(shape, []).append(module)
    usual = {group: max(by_shape, key=lambda shape: len(by_shape[shape])) for group, by_shape in groups.items()}
    found = {}
    for (template, role), by_shape in groups.items():
        for shape, names in by_shape.items() if len(by_shape) > 1 else ():
            wanted = usual[template, role]
            if len(names) >= len(by_shape[wanted]) or sorted(shape) != sorted(wanted):
                continue
            for name in names:
                others = [(r, s) for r, s in modules[name].items() if r != role and len(s) > 1]
                if not dense or any(usual[template, r] == s and s[0] != s[-1] for r, s in others):
                    found[name] = Clash(role, shape, str(list(wanted)))
    return found


def _gaps(table: Table, config: AdapterConfig, shapes: Mapping[str, Shapes], adapted: Sequence[str]) -> dict[str, tuple[str, ...]]:
    layouts = (*table.layouts, *table.layouts_for(config, frozenset()))
    loose = {role for layout in layouts for role, part in layout.parts.items() if part.optional}
    if config.get("bias", "none") != "none":
        loose.add("base_layer.bias")
    found = {}
    for role in loose:
        having = Counter(_template(m) for m in adapted if role in shapes[m])
        without = [m for m in adapted if role not in shapes[m]] if having else []
        rare = Counter(_template(m) for m in without)
        if lacking := tuple(m for m in without if rare[_template(m)] < having[_template(m)]):
            found[role] = lacking
    return found


def _shared(table: Table, config: AdapterConfig, common: Shapes) -> Fit:
    parts: dict[str, Part] = {**table.shared, **table.shared_for(config, common.keys())}
    parts |= {role: table.numbered[stem] for role in common if (stem := role.partition(".")[0]) in table.numbered}
    loose = (*table.by_category, *table.free)
    own = {role: shape for role, shape in common.items() if not role.startswith(loose)}
    return fit((Layout(parts),), config, own, given(table, config, ""))
