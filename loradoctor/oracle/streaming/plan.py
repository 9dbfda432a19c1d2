"""Which bytes of the merged model come from where: copied from a file of the base, cast on the way, or computed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..model.loading import Loading
from .offsets import File, Place, laid_out
from .saving import Output, Shard

_HEADER_LIMIT = 200 * 2**20
"""bytes of a safetensors header, what the library itself accepts twice over"""


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes that are right as the base's file has them: neighbours there and here are one copy."""

    source: Path
    offset: int
    shard: int
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Cast:
    """A tensor of the base in another dtype, or out of a file whose bytes cannot be copied; row by row."""

    stored: str
    place: Place

    @property
    def nbytes(self) -> int:
        """Bytes that it writes."""
        return self.place.nbytes


@dataclass(frozen=True, slots=True)
class Make:
    """Outputs that are computed together: ``names`` are the parameters they are made of."""

    names: tuple[str, ...]
    places: tuple[Place, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that it writes."""
        return sum(place.nbytes for place in self.places)


Task = Copy | Cast | Make


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is to be written, in the order of the files."""

    files: tuple[File, ...]
    tasks: tuple[Task, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


def plan(shards: Sequence[Shard], loading: Loading, changed: Iterable[Sequence[str]], aliases: Mapping[str, Sequence[str]]) -> Plan:
    """How to write ``shards``.

    ``changed``: groups of parameters that merging computes together or that the adapter's file replaces. ``aliases``: every
    name of a tied parameter, by each of them. Raises :class:`~.weights.WeightsError` for a file that cannot be read.
    """
    files, places = laid_out(shards)
    groups = _Groups()
    for names in changed:
        groups.join(names)
    for group in aliases.values():
        groups.join(group)
    touched = {groups.of(name) for names in changed for name in names}
    spans = _Spans(loading)
    copies: list[Copy] = []
    tasks: list[Task] = []
    made: list[Place] = []
    for place in places:
        stored = None if any(groups.of(name) in touched for name in place.output.trace.names) else _untouched(place.output, loading, aliases)
        if stored is None:
            made.append(place)
            groups.join(tuple(place.output.trace.names))
        elif span := spans.equal(stored, place.output):
            copies.append(Copy(*span, place.shard, place.start, place.nbytes))
        else:
            tasks.append(Cast(stored, place))
    tasks += [Make(names, tuple(own)) for names, own in _by_group(made, groups)]
    tasks += _joined(copies)
    return Plan(files, tuple(sorted((t for t in tasks if t.nbytes), key=_first)))


def _untouched(output: Output, loading: Loading, aliases: Mapping[str, Sequence[str]]) -> str | None:
    """The stored tensor whose values ``output`` has."""
    if output.trace.view == _whole(output):
        (name,) = output.trace.names
        return next((s for alias in aliases.get(name, (name,)) if (s := loading.stored_as(alias)) is not None), None)
    # What transformers has fused from this very tensor while loading, it gives back while saving.
    made_of = {stored for name in output.trace.names for stored in loading.stored_for(name)}
    same = output.name in made_of and loading.weights.info(output.name).shape == torch.Size(output.shape)
    return output.name if same else None


def _whole(output: Output) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    strides = [math.prod(output.shape[i + 1 :]) for i in range(len(output.shape))]
    return 0, output.shape, tuple(strides)


def _first(task: Task) -> tuple[int, int]:
    place = task.places[0] if isinstance(task, Make) else task.place if isinstance(task, Cast) else task
    return place.shard, place.start


def _by_group(places: Iterable[Place], groups: _Groups) -> Iterator[tuple[tuple[str, ...], list[Place]]]:
    found: dict[str, list[Place]] = {}
    for place in places:
        found.setdefault(groups.of(min(place.output.trace.names, default=place.output.name)), []).append(place)
    for own in found.values():
        names = {name for place in own for name in place.output.trace.names}
        yield tuple(sorted(names)), own


def _joined(copies: Iterable[Copy]) -> Iterator[Copy]:
    last: Copy | None = None
    for copy in sorted(copies, key=_first):
        if last is not None and _follows(last, copy):
            last = Copy(last.source, last.offset, last.shard, last.start, last.nbytes + copy.nbytes)
            continue
        if last is not None:
            yield last
        last = copy
    if last is not None:
        yield last


RUN = 256 * 2**20
"""bytes of a copy that are journalled at once: what an interruption may cost"""


def _follows(last: Copy, copy: Copy) -> bool:
    here = last.shard == copy.shard and last.start + last.nbytes == copy.start
    there = last.source == copy.source and last.offset + last.nbytes == copy.offset
    return here and there and last.nbytes + copy.nbytes <= RUN


class _Groups:
    """Names that belong together, by union."""

    def __init__(self) -> None:
        self._up: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The name that stands for the group of ``name``."""
        root = name
        while (above := self._up.get(root, root)) != root:
            root = above
        while (above := self._up.get(name, name)) != root:
            self._up[name], name = root, above
        return root

    def join(self, names: Sequence[str]) -> None:
        """Put all of ``names`` into one group."""
        for name in names[1:]:
            first, other = sorted((self.of(names[0]), self.of(name)))
            self._up[other] = first


class _Spans:
    """Where the tensors of the base's safetensors files begin."""

    def __init__(self, loading: Loading) -> None:
        self._weights = loading.weights
        self._files: dict[Path, dict[str, tuple[int, int]]] = {}

    def equal(self, stored: str, output: Output) -> tuple[Path, int] | None:
        """File and first byte of ``stored``, when its bytes are those of ``output``."""
        info, path = self._weights.info(stored), self._weights.file_of(stored)
        if info.dtype != output.dtype or path.suffix != ".safetensors":
            return None
        if path not in self._files:
            self._files[path] = spans(path)
        start, nbytes = self._files[path][stored]
        return (path, start) if nbytes == info.nbytes else None


def spans(path: Path) -> dict[str, tuple[int, int]]:
    """First byte in the file, and length, of every tensor of a safetensors file. Raises OSError or ValueError."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _HEADER_LIMIT:
            raise ValueError(f"`{path.name}` has no safetensors header")
        header = json.loads(file.read(length))
    return {
        name: (8 + length + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }
