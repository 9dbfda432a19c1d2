"""What a script leaves on disk, and what its neighbours have left at a path that it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from loradoctor.lint import ir, neighbours
from loradoctor.lint.flow import paths
from loradoctor.lint.flow.facts import Directory, Facts, Instance, Model, Peft, Tokenizer, Trainer
from loradoctor.lint.flow.values import Derived, Known, Value
from loradoctor.lint.libraries.effects import directory
from loradoctor.lint.record import record, replace
from loradoctor.lint.source import Source, SourceError

if TYPE_CHECKING:
    from loradoctor.lint.module import Arrival, Module

UNCLEAR = "unclear"
"""Something was written, and it may be anything."""


@record
class Artifact:
    """What one call writes to one path.

    ``kind`` is ``adapter``, ``merged``, ``model``, ``adapter weights`` (their state dict), ``state dict``, ``pickle`` or
    :data:`UNCLEAR`; ``node`` the call that writes, or for a merged model the one that merged it.
    """

    path: str
    kind: str
    node: ir.Node
    module: Module
    assumed: bool = False


def written(module: Module) -> tuple[Artifact, ...]:
    """Everything that a script certainly writes to paths that can be told, tokenizers left out."""
    found: dict[Artifact, None] = {}
    for site in module.calls("save_pretrained", "push_to_hub", "save_model", "train", "torch.save", "safetensors.save_file"):
        for arrival in site.arrivals:
            for kind, path, node in _HANDLERS[site.name](arrival):
                place = paths.place(path, module.trace.defaults)
                if place is not None and (site.name != "push_to_hub" or "/" in place.text):
                    text = f"{place.text}/{paths.CHECKPOINT}" if site.name == "train" else place.text
                    found[Artifact(text, kind, node, module, place.assumed)] = None
    return tuple(found)


def elsewhere(module: Module, path: Value | None) -> tuple[Artifact, ...]:
    """What the neighbouring scripts have written to a path, one each; empty unless it is the same kind of thing.

    Scripts are neighbours in one directory: only there does a relative path mean the same place, whoever runs them.
    """
    place = paths.place(path, module.trace.defaults)
    if place is None or not _has_neighbours(module) or module.is_test:
        return ()
    text = paths.pattern(place.text)
    sought = text.removesuffix(f"/{paths.CHECKPOINT}")
    here = str(Path(module.source.path).parent)
    module.project.consulted.update((here, *neighbours.directory(here).names))
    found: list[Artifact] = []
    for writer in neighbours.writers(sought, module.source.path):
        other = _neighbour(writer, module.targets)
        mine = [a for a in other.written if a.path == text] if other is not None else []
        module.project.consulted.update(other.consulted if other is not None and mine else ())
        found += mine
    if len({a.kind for a in found}) != 1 or found[0].kind == UNCLEAR:
        return ()
    first = {a.module.source.path: a for a in reversed(found)}
    return tuple(replace(a, assumed=place.assumed or any(a.assumed for a in found)) for a in reversed(first.values()))


def served(module: Module) -> str | None:
    """The script beside this one that serves the adapter it saves with vLLM, as far as the paths in its strings tell."""
    here = str(Path(module.source.path).parent)
    paths_of_adapters = [a.path for a in module.written if a.kind == "adapter"]
    if not paths_of_adapters or not _has_neighbours(module):
        return None
    module.project.consulted.update((here, *neighbours.directory(here).names))
    return next((server for path in paths_of_adapters for server in neighbours.servers(path, module.source.path)), None)


def _has_neighbours(module: Module) -> bool:
    """Whether it is a script in a directory: not a document, not what comes through a pipe."""
    return module.source.kind != "markdown" and not module.source.path.startswith("<")


def _neighbour(path: str, targets: Mapping[str, str]) -> Module | None:
    try:
        stat = Path(path).stat()
    except OSError:
        return None
    return _analysed(path, stat.st_mtime_ns, stat.st_size, tuple(sorted(targets.items())))


class Recent:
    """The modules analysed last that leave something on disk: they are wanted again by their neighbours, and as what they are."""

    MOST = 8

    def __init__(self) -> None:
        self._held: dict[tuple[str, tuple[tuple[str, str], ...]], Module] = {}

    def analysed(self, source: Source, targets: Mapping[str, str]) -> Module:
        """The module of a source. Raises :class:`loradoctor.lint.lower.ParseError`."""
        from loradoctor.lint.module import analyse

        key = (source.path, tuple(sorted(targets.items())))
        held = self._held.get(key)
        if held is not None and held.source == source:
            return held
        module = analyse(source, targets)
        if any(visit.name in _HANDLERS for visit in module.trace.visits):
            self._held[key] = module
            if len(self._held) > self.MOST:
                del self._held[next(iter(self._held))]
        return module

    def holds(self, module: Module) -> bool:
        """Whether a module is kept."""
        return any(held is module for held in self._held.values())

    def cache_clear(self) -> None:
        """Forget all of them: the files that they rest on may have changed."""
        self._held.clear()


recent = Recent()


@lru_cache(maxsize=24)
def _analysed(path: str, _: int, __: int, targets: tuple[tuple[str, str], ...]) -> Module | None:
    from loradoctor.lint.lower import ParseError

    try:
        source = Source.read(path)
        try:
            return recent.analysed(source, dict(targets))
        except ParseError:
            return recent.analysed(source.without_broken_cells()[0], dict(targets)) if source.cells else None
    except (SourceError, ParseError, RecursionError, ValueError):
        return None


Writes = Iterator[tuple[str, Value | None, ir.Node]]


def _saved(arrival: Arrival, value: Value | None) -> tuple[str, ir.Node] | None:
    """What is saved when ``value`` is, None for what is no model."""
    node = arrival.visit.node
    peft, model = arrival.facts(value, Peft), arrival.facts(value, Model)
    if peft is not None:
        return (UNCLEAR if peft.gutted else "adapter"), node
    if model is not None and model.merged is not None and not model.carries_adapter:
        return "merged", model.merged
    if model is not None:
        return (UNCLEAR if model.touched or model.native or model.carries_adapter or model.made is None else "model"), node
    instance = arrival.facts(value, Instance)
    harmless = isinstance(instance, Tokenizer) or (instance is not None and instance.cls.endswith(("Processor", "Config", "Extractor")))
    return None if harmless else (UNCLEAR, node)


def _save_pretrained(arrival: Arrival) -> Writes:
    found = _saved(arrival, arrival.receiver)
    path = arrival.arg("save_directory") or arrival.arg("repo_id")
    if found is not None and not (found[0] == UNCLEAR and _beside_model(arrival, path)):
        yield found[0], path, found[1]


def _beside_model(arrival: Arrival, path: Value | None) -> bool:
    """Whether something nothing is known of is saved beside a model that is: a tokenizer then, or one would replace the other."""
    held = arrival.visit.heap.get(directory(path) or "")
    unseen = arrival.facts(arrival.receiver, Facts) is None
    return unseen and isinstance(held, Directory) and (held.adapter is not None or held.merged is not None)


def _save_model(arrival: Arrival) -> Writes:
    trainer = arrival.facts(arrival.receiver, Trainer)
    if trainer is not None:
        kind, node = _saved(arrival, trainer.model) or (UNCLEAR, arrival.visit.node)
        yield kind, arrival.arg("output_dir") or trainer.output, node


def _train(arrival: Arrival) -> Writes:
    trainer = arrival.facts(arrival.receiver, Trainer)
    if trainer is not None:
        kind, node = _saved(arrival, trainer.model) or (UNCLEAR, arrival.visit.node)
        yield kind, trainer.output, node


_DICTS = {"adapter_state_dict": "adapter weights", "state_dict": "state dict"}


def _torch_save(arrival: Arrival) -> Writes:
    value, node = arrival.arg("obj") or arrival.arg("tensors"), arrival.visit.node
    path = arrival.arg("f") or arrival.arg("filename")
    if isinstance(value, Derived):
        yield _DICTS.get(value.kind, UNCLEAR), path, node
    elif arrival.facts(value, Peft) or arrival.facts(value, Model):
        yield "pickle", path, node
    elif not isinstance(value, Known):
        yield UNCLEAR, path, node


_HANDLERS = {
    "save_pretrained": _save_pretrained,
    "push_to_hub": _save_pretrained,
    "save_model": _save_model,
    "train": _train,
    "torch.save": _torch_save,
    "safetensors.save_file": _torch_save,
}
