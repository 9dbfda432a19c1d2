"""Carry out a merge that is known to be possible: parameters are computed as they are needed, and their bytes handed to the writer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..files.weights import WeightsError
from ..model import units
from ..model.loading import Loading
from ..model.prepared import Prepared
from ..proof import merged
from .journal import Journal
from .offsets import Place
from .plan import Cast, Copy, Make, Plan
from .saving import Shard
from .shards import Piece, Writer, pieces

Progress = Callable[[str], None]
ROWS = 16 * 2**20
"""bytes of a tensor that are cast at a time"""


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
            for number in writer.remaining():
                task = self.plan.tasks[number]
                if isinstance(task, Copy):
                    writer.copy(number, task)
                elif isinstance(task, Cast):
                    writer.put(number, task, self._cast(task))
                else:
                    progress(f"merging {task.names[0]}")
                    writer.put(number, task, self._made(task))
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
