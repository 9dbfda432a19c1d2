"""`merge_and_unload()` and `save_pretrained()` without ever holding the model: parameter by parameter, from file to file.

Two steps, so that nothing is written before it is known that everything can be: :func:`ready` loads the adapter onto a phantom
base and finds out what would be written; :meth:`making.Merging.write` writes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import peft
import torch
import transformers

from ..files.tensor_file import opened
from ..files.weights import BaseWeights, WeightsError, absent
from ..model import units
from ..model.base import Base, Unbuildable, hollow, parameter_names
from ..model.load import ADAPTER
from ..model.loading import Loading, declared_dtype, dtypes_loaded
from ..model.prepared import Prepared, adapter_config, load_adapter, quantization, start
from ..proof import merged
from .making import ROWS, Merging, Refused
from .plan import Plan, plan
from .saving import CannotSave, Shard, generation_as_loaded, merged_and_unloaded, saved, untie_what_differs

Progress = Callable[[str], None]


def ready(request: dict[str, Any], scratch: Path, progress: Progress) -> Merging:
    """Find out what the merge that ``request`` asks for writes; config and generation config are written to ``scratch``.

    Beside what every request has, ``dtype`` and ``shard_size`` may be set. Raises :class:`Refused`.
    """
    try:
        return _ready(request, start(request, progress), scratch, progress)
    except Unbuildable as why:
        raise Refused(f"the base model cannot be built: {why}") from why
    except (WeightsError, CannotSave, merged.NotMergeable, units.NoWeight) as why:
        raise Refused(str(why)) from why


def _ready(request: dict[str, Any], base: Base, scratch: Path, progress: Progress) -> Merging:
    if base.pipeline is not None:
        raise Refused("the base is a diffusion pipeline: `fuse_lora()` and `save_pretrained()` of diffusers merge into one")
    base = resized(base, request["adapter"])
    weights = _weights(request, base, progress)
    built = _built_dtype(base.model)
    wanted = getattr(torch, request["dtype"]) if request.get("dtype") else None
    own = declared_dtype(base.model.config, weights)
    # Rounded once: the merge is computed in the wider of the two dtypes.
    working = own if wanted is None else torch.promote_types(own, wanted)
    final = dtypes_loaded(base.model, built, wanted or own)
    dtypes = dtypes_loaded(base.model, built, working)
    loading = Loading(weights, base.model, dtypes)
    base = _as_loaded(base, loading, dtypes)
    progress("loading the adapter with PeftModel.from_pretrained")
    model, outcome = load_adapter(base, request["adapter"])
    if model is None:
        said = outcome.error.splitlines()[0] if outcome.error else ""
        raise Refused(f"PEFT does not load the adapter onto this base: {outcome.error_type}: {said}")
    # What reads a base's weights asks only for `find`, which gives them here as the model would hold them.
    prepared = Prepared(request["adapter"], adapter_config(request["adapter"]), base, model, outcome, cast("BaseWeights", loading))
    return _planned(request, prepared, loading, final, scratch, progress)


def _planned(
    request: dict[str, Any], prepared: Prepared, loading: Loading, final: dict[str, torch.dtype], scratch: Path, progress: Progress
) -> Merging:
    if prepared.model.peft_config[ADAPTER].is_prompt_learning:
        raise Refused("prompt learning adds inputs, not weights: there is nothing to merge")
    own_units = list(merged.units(prepared))
    replaced = merged.replaced(prepared)
    if not own_units and not replaced:
        raise Refused("the adapter changes no weight of this base")
    progress("planning what to write")
    try:
        model = merged_and_unloaded(prepared.model)
    except Exception as error:
        raise Refused(f"PEFT does not merge it: {type(error).__name__}: {str(error).strip().splitlines()[0]}") from error
    generation_as_loaded(model, request["base"], online=bool(request.get("online")))
    _without_quantization(model.config)
    shards = saved(model, final, scratch, request.get("shard_size"))
    names = parameter_names(model)
    aliases = {name: group for group in names.values() if len(group) > 1 for name in group}
    changed = [tuple(unit.names) for unit in own_units if unit.names]
    _must_be_known(shards, loading, {n for group in changed for n in group}, replaced, aliases)
    made = plan(shards, loading, [*changed, *((name,) for name in replaced)], aliases)
    by_name = {name: unit for unit in own_units for name in unit.names}
    key = _key(request, loading.weights, made)
    return Merging(prepared, loading, model, aliases, by_name, replaced, shards, made, key)


def resized(base: Base, adapter: str) -> Base:
    """``base`` with as many tokens as the embeddings have that were saved with the adapter, as it was when it was trained."""
    try:
        own = base.model.get_input_embeddings()
        name = next(name for name, module in base.model.named_modules() if module is own)
        rows = own.weight.shape[0]
    except (AttributeError, NotImplementedError, StopIteration):
        return base
    saved_rows = _rows(adapter, f"base_model.model.{name}.")
    if saved_rows in (None, rows):
        return base

    def make() -> Any:
        model: Any = base.make()
        model.resize_token_embeddings(saved_rows, mean_resizing=False)
        return model

    return replace(base, make=make).again()


def _rows(adapter: str, prefix: str) -> int | None:
    """Rows of the embeddings that are saved whole in the adapter's file; None when there are none."""
    files = (Path(adapter) / name for name in ("adapter_model.safetensors", "adapter_model.bin"))
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    stored = opened(file)
    names = set(stored.names())
    endings = ("weight", "base_layer.weight", "modules_to_save.weight", "token_adapter.base_layer.weight")
    found = next((prefix + ending for ending in endings if prefix + ending in names), None)
    return None if found is None else int(stored.info(found).shape[0])


def _weights(request: dict[str, Any], base: Base, progress: Progress) -> BaseWeights:
    if name := quantization(base):
        raise Refused(f"the base is quantized ({name}), and merging would round the update with it: give the base it was made from")
    directory = Path(request["base"])
    weights = BaseWeights.at(directory, online=bool(request.get("online")), progress=progress)
    if not weights:
        raise Refused(absent(directory))
    weights.obtain_all()
    return weights


def _built_dtype(model: Any) -> torch.dtype:
    named = getattr(model.config, "dtype", None) or getattr(model.config, "torch_dtype", None)
    named = getattr(torch, named, None) if isinstance(named, str) else named
    return named if isinstance(named, torch.dtype) else torch.get_default_dtype()


def _as_loaded(base: Base, loading: Loading, dtypes: dict[str, torch.dtype]) -> Base:
    """``base`` with the dtypes and the ties that it has once its weights are loaded."""

    def differs(one: str, other: str) -> bool:
        here, there = loading.stored_as(one), loading.stored_as(other)
        return here is not None and there is not None and here != there and not _equal(loading.weights, here, there)

    untie_what_differs(base.model, differs)
    for name, parameter in base.model.named_parameters(remove_duplicate=False):
        parameter.data = hollow(parameter.shape, dtypes.get(name, parameter.dtype))
    for names in parameter_names(base.model).values():
        loading.tie(names)
    return replace(base, names=parameter_names(base.model))


def _equal(weights: BaseWeights, one: str, other: str) -> bool:
    here, there = weights.info(one), weights.info(other)
    if here.shape != there.shape:
        return False
    step = max(1, ROWS * here.shape[0] // max(1, here.nbytes)) if here.shape else 1
    if not here.shape:
        return bool(weights.read(one) == weights.read(other))
    return all(
        torch.equal(weights.rows(one, row, min(row + step, here.shape[0])), weights.rows(other, row, min(row + step, here.shape[0])))
        for row in range(0, here.shape[0], step)
    )


def _without_quantization(config: Any) -> None:
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")


def _must_be_known(
    shards: list[Shard], loading: Loading, computed: set[str], replaced: dict[str, torch.Tensor], aliases: dict[str, tuple[str, ...]]
) -> None:
    """Raise :class:`Refused` for a parameter that would be left as transformers initialises it, at random."""
    unknown = []
    for output in (o for shard in shards for o in shard.outputs):
        for name in output.trace.names:
            group = aliases.get(name, (name,))
            if not any(alias in replaced or alias in loading for alias in group):
                unknown.append(name)
            elif not any(alias in replaced or alias in computed for alias in group):
                stored = next((shape for alias in group if (shape := loading.shape(alias)) is not None), None)
                if stored is not None and output.trace.view is not None and stored.numel() != torch.Size(output.shape).numel():
                    raise Refused(f"`{name}` is {tuple(stored)} in the base's files and {output.shape} with this adapter, which does not bring it")
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise Refused(f"neither the base nor the adapter has `{min(unknown)}`{more}: it would be random numbers")


def _key(request: dict[str, Any], weights: BaseWeights, made: Plan) -> str:
    """A digest of everything that decides what is written."""
    files = sorted({weights.file_of(name) for name in weights.names()})
    facts = {
        "versions": [torch.__version__, transformers.__version__, peft.__version__],
        "request": [request.get("dtype"), request.get("shard_size")],
        "base": [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files],
        "adapter": [(path.name, _digest(path)) for path in sorted(Path(request["adapter"]).glob("adapter_*")) if path.is_file()],
        "files": [(file.name, hashlib.sha256(file.header).hexdigest()) for file in made.files],
        "tasks": hashlib.sha256(repr(made.tasks).encode()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(2**20):
            digest.update(chunk)
        return digest.hexdigest()
