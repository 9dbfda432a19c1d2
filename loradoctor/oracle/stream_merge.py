"""`merge_and_unload()` and `save_pretrained()` without ever holding the model: parameter by parameter, from file to file.

Two steps, so that nothing is written before it is known that everything can be: :func:`ready` loads the adapter onto a phantom
base and finds out what would be written; :meth:`Merging.write` writes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import peft
import torch
import transformers

from . import merged, units
from .base import Base, Unbuildable, hollow, parameter_names
from .isolated import reads_base_weights
from .journal import Journal
from .load import ADAPTER
from .loading import Loading, declared_dtype, dtypes_loaded
from .plan import Cast, Copy, Make, Place, Plan, Task, plan
from .prepared import Prepared, adapter_config, load_adapter, quantization, start
from .saving import CannotSave, Shard, generation_as_loaded, merged_and_unloaded, saved, untie_what_differs
from .shards import Piece, Writer, pieces
from .tensor_file import opened
from .weights import BaseWeights, WeightsError, absent

Progress = Callable[[str], None]
ROWS = 16 * 2**20
"""bytes of a tensor that are cast at a time"""
WORKERS = min(2, os.cpu_count() or 1)
"""layers that are merged at a time: the work is bound by memory, and writing takes a part of a processor"""
TOGETHER = 64 * 2**20
"""bytes of merged weights that may be in the making at a time; a larger layer is merged alone"""


class Refused(Exception):
    """This merge cannot be done; the text is one clause for the user."""


@dataclass
class Merging:
    """A merge that can be done, with nothing written yet."""

    prepared: Prepared
    loading: Loading
    model: Any
    """the base as `merge_and_unload` leaves it, without weights"""
    aliases: dict[str, tuple[str, ...]]
    """every name of a tied parameter of the merged model, by each of them"""
    units: dict[str, merged.Unit]
    """by the names of the parameters that it changes"""
    replaced: dict[str, torch.Tensor]
    shards: list[Shard]
    plan: Plan
    key: str
    """differs when anything differs that the result depends on"""

    def write(self, directory: Path, journal: Journal, advance: Callable[[int], None], progress: Progress) -> Writer:
        """Write every shard into ``directory``; the writer that is returned is to be settled, as the disk may still be busy.

        Raises :class:`Refused` and OSError; what is done by then stays for the next run.
        """
        writer = Writer(self.plan, directory, journal, advance)
        try:
            for number, task, pieces_of in self._ahead(writer.remaining(), progress):
                if isinstance(task, Copy):
                    writer.copy(number, task)
                else:
                    writer.put(number, task, pieces_of())
            writer.finish()
            return writer
        except BaseException:
            writer.abandon()
            raise

    def rehearse(self, progress: Progress) -> None:
        """Compute every layer whose result is stored as float16, which ends at 65504. Raises :class:`Refused` for one that does not fit."""
        for task in self.plan.tasks:
            if isinstance(task, Make) and any(place.output.dtype == torch.float16 for place in task.places):
                progress(f"trying {task.names[0]} in float16")
                self._made(task)

    def _ahead(self, numbers: list[int], progress: Progress) -> Iterator[tuple[int, Task, Callable[[], Iterable[Piece]]]]:
        """The tasks with these numbers in order, and what gives their bytes; small ones are computed before they are asked for."""
        # What decomposes the base's weights draws random numbers and counts threads: one after the other, in this one.
        alone = reads_base_weights(self.prepared.model.peft_config[ADAPTER])
        waiting: deque[tuple[int, Task, Callable[[], Iterable[Piece]]]] = deque()
        with ThreadPoolExecutor(WORKERS) as pool:
            for number in numbers:
                task = self.plan.tasks[number]
                if isinstance(task, Copy):
                    waiting.append((number, task, tuple))
                elif isinstance(task, Cast):
                    waiting.append((number, task, partial(self._cast, task)))
                else:
                    while waiting and (alone or task.nbytes + _making(waiting) > TOGETHER):
                        yield waiting.popleft()
                    progress(f"merging {task.names[0]}")
                    waiting.append((number, task, partial(self._made, task) if alone else pool.submit(self._made, task).result))
                while sum(isinstance(t, Make) for _, t, _ in waiting) > WORKERS:
                    yield waiting.popleft()
            yield from waiting

    def _cast(self, task: Cast) -> Iterator[Piece]:
        weights, place = self.loading.weights, task.place
        shape, dtype = place.output.shape, place.output.dtype
        if not shape or not shape[0]:
            yield from pieces(weights.read(task.stored).to(dtype), place.shard, place.start)
            return
        row = place.nbytes // shape[0]
        step = max(1, ROWS // max(1, row))
        for first in range(0, shape[0], step):
            part = weights.rows(task.stored, first, min(first + step, shape[0]))
            yield from pieces(part.to(dtype), place.shard, place.start + first * row)

    def _made(self, task: Make) -> list[Piece]:
        try:
            return self._computed(task)
        except (Refused, OSError):
            raise
        except (WeightsError, merged.NotMergeable, units.NoWeight) as why:
            raise Refused(f"`{task.names[0]}` cannot be merged: {why}") from why
        except Exception as error:
            said = str(error).strip().splitlines()
            raise Refused(f"`{task.names[0]}` cannot be merged: {type(error).__name__}: {said[0] if said else ''}") from error

    def _computed(self, task: Make) -> list[Piece]:
        values = self._values(task.names)
        found: list[Piece] = []
        reverted: dict[str, torch.Tensor] | None = None
        for place in task.places:
            output = place.output
            if output.trace.view is not None:
                (name,) = output.trace.names
                offset, size, stride = output.trace.view
                tensor = values[name].contiguous().as_strided(size, stride, offset)
            else:
                if reverted is None:
                    from transformers.core_model_loading import revert_weight_conversion

                    reverted = revert_weight_conversion(self.model, dict(values))
                tensor = reverted[output.name]
            if tuple(tensor.shape) != output.shape:
                raise Refused(f"`{output.name}` comes out as {tuple(tensor.shape)} instead of {output.shape}")
            tensor = tensor.to(output.dtype)
            _must_fit(tensor, place, self.loading)
            found += pieces(tensor, place.shard, place.start)
        return found

    def _values(self, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """The parameters called ``names`` in the merged model."""
        known: dict[str, torch.Tensor] = {}
        found: dict[str, torch.Tensor] = {}
        for name in names:
            for alias in self.aliases.get(name, (name,)):
                if alias in self.replaced:
                    known[alias] = self.replaced[alias]
                elif alias in self.units and alias not in known:
                    made = merged.merge(self.prepared, self.units[alias])
                    known.update({n: tensor for n, tensor in made.items() if n in self.units[alias].names})
            group = self.aliases.get(name, (name,))
            if not any(alias in known for alias in group):
                known.update(self.loading.read([next(alias for alias in group if alias in self.loading)]))
            found[name] = next(known[alias] for alias in group if alias in known)
        return found


def _making(waiting: Iterable[tuple[int, Task, Any]]) -> int:
    return sum(task.nbytes for _, task, _ in waiting if isinstance(task, Make))


def _must_fit(tensor: torch.Tensor, place: Place, loading: Loading) -> None:
    if not tensor.dtype.is_floating_point or bool(torch.isfinite(tensor.sum(dtype=torch.float64))):
        return
    if bool(torch.isfinite(tensor).all()):
        return
    stored = place.output.name if place.output.name in loading.weights else None
    if stored is not None and not bool(torch.isfinite(loading.weights.read(stored)).all()):
        return  # the base is like that
    largest = torch.finfo(tensor.dtype).max
    raise Refused(f"`{place.output.name}` does not fit {str(tensor.dtype).removeprefix('torch.')}, which ends at {largest:g} (LD803)")


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
