"""All tensors of an adapter held against their method's table, module by module and as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.fitting import Fit, fit, given
from loradoctor.checkpoint.methods.lora import expected_rank
from loradoctor.checkpoint.methods.table import Layout, Part, Shapes, Table
from loradoctor.checkpoint.methods.tables import table_of

WHOLE = frozenset({"", "base_model"})
"""Where tensors of the model as a whole are: `base_model.vera_A`, `prompt_embeddings`."""


@dataclass(frozen=True, slots=True)
class Structure:
    """``modules`` is how the tensors of each adapted module fit, ``shared`` how those of the model as a whole do."""

    modules: Mapping[str, Fit]
    shared: Fit


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
    modules = {}
    for module in checkpoint.adapted:
        own = _own(checkpoint, shapes[module]) | _borrowed(table, common, module)
        sizes = _sizes(table, config, module)
        memo = (tuple(own.items()), tuple(sizes.items()))
        if memo not in seen:
            layouts = (*table.layouts_for(config, own.keys()), *table.layouts)
            layouts = tuple(replace(lay, parts={**lay.parts, **table.by_category}) for lay in layouts) if table.by_category else layouts
            seen[memo] = fit(layouts, config, own, sizes)
        found = seen[memo]
        problems = tuple(table.judge(config, module, own, found.sizes)) if not found.clashes else ()
        modules[module] = replace(found, problems=problems) if problems else found
    return Structure(modules, _shared(table, config, common))


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


def _shared(table: Table, config: AdapterConfig, common: Shapes) -> Fit:
    parts: dict[str, Part] = {**table.shared, **table.shared_for(config, common.keys())}
    parts |= {role: table.numbered[stem] for role in common if (stem := role.partition(".")[0]) in table.numbered}
    loose = (*table.by_category, *table.free)
    own = {role: shape for role, shape in common.items() if not role.startswith(loose)}
    return fit((Layout(parts),), config, own, given(table, config, ""))
