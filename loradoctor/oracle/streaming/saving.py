"""What `merge_and_unload()` and `save_pretrained()` would write, found out by running them on a model without weights."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .blank import Trace, Tracing, blanks


class CannotSave(Exception):
    """transformers does not save this model; the text is one clause for the user."""


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor that the merged model's files hold."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    trace: Trace


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of weights: its name, its tensors and the metadata of its header."""

    file: str
    outputs: tuple[Output, ...]
    metadata: Mapping[str, str]


def merged_and_unloaded(model: Any) -> Any:
    """The base model as `merge_and_unload` leaves it, with no layer merged. Raises what PEFT raises for methods without merge."""
    silenced = [module for module in model.modules() if callable(getattr(module, "merge", None)) and module is not model]
    for module in silenced:
        module.__dict__["merge"] = lambda *_args, **_kwargs: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.merge_and_unload()
    finally:
        for module in silenced:
            module.__dict__.pop("merge", None)


def saved(model: Any, dtypes: Mapping[str, torch.dtype], directory: Path, shard_size: int | str | None) -> list[Shard]:
    """The shards that ``model.save_pretrained(directory)`` would write; its other files are written.

    ``dtypes`` are the floating tensors' by the model's names. Raises :class:`CannotSave`.
    """
    limit = {} if shard_size is None else {"max_shard_size": shard_size}
    shards: list[Shard] = []
    with blanks(model, dtypes), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tracing = Tracing(model.state_dict(keep_vars=True))

        def record(tensors: dict[str, torch.Tensor], filename: str, metadata: dict[str, str] | None = None, **_: Any) -> None:
            outputs = tuple(Output(n, t.dtype, tuple(t.shape), tracing.trace(t)) for n, t in tensors.items())
            shards.append(Shard(Path(filename).name, outputs, dict(metadata or {})))

        with _instead_of_writing(record), tracing:
            try:
                model.save_pretrained(str(directory), **limit)
            except Exception as error:
                said = str(error).strip().splitlines()
                raise CannotSave(f"transformers does not save it: {type(error).__name__}: {said[0] if said else ''}") from error
    for shard in shards:
        for output in shard.outputs:
            if not output.trace.names and output.shape and 0 not in output.shape:
                raise CannotSave(f"`{output.name}` is made up while it is saved; merge with PEFT itself")
    return shards


@contextlib.contextmanager
def _instead_of_writing(record: Any) -> Iterator[None]:
    import transformers.modeling_utils as target

    write = target.safe_save_file
    target.safe_save_file = record
    try:
        yield
    finally:
        target.safe_save_file = write


def generation_as_loaded(model: Any, reference: str, *, online: bool) -> None:
    """Give ``model`` the generation settings that `from_pretrained(reference)` gives it."""
    if not (hasattr(model, "can_generate") and model.can_generate()):
        return
    from transformers import GenerationConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for extra in ({}, {"config_file_name": "config.json", "_from_model_config": True}):
            with contextlib.suppress(OSError, TypeError, ValueError):
                model.generation_config = GenerationConfig.from_pretrained(reference, local_files_only=not online, **extra)
                return


def untie_what_differs(model: nn.Module, differs: Any) -> list[str]:
    """Part tied parameters whose stored values differ, as transformers 5 does; the names that stand alone now.

    ``differs(a, b)`` compares two names.
    """
    table: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    parted = [target for target, source in table.items() if differs(source, target)]
    for target in parted:
        path, _, leaf = target.rpartition(".")
        module = model.get_submodule(path)
        parameter = getattr(module, leaf)
        module.register_parameter(leaf, nn.Parameter(parameter.data, requires_grad=False))
        table.pop(target)
    return parted
