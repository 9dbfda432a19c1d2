"""What a repair or a conversion is going to do: pure data, decided before a byte is written.

A plan is complete in itself: every tensor of the result says from which bytes of which file it is made and how, every field of
the config what it was and becomes, and whatever is left behind is named with the reason. ``repair/write.py`` carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from loradoctor.checkpoint.tensor import TensorInfo


class Absent(Enum):
    """Stands for a config field that is not there, before or after."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "absent"


ABSENT = Absent.ABSENT


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a source tensor lies: a file that was read (never unpickled), and dtype, shape and bytes in it."""

    path: Path
    info: TensorInfo


@dataclass(frozen=True, slots=True)
class Transform:
    """One exact operation on an array, named by ``kind``.

    - ``transpose``: swap the two axes of a matrix; ``permute``: reorder all ``axes`` as numpy's ``transpose`` does.
    - ``reshape``: the same elements, row-major, in ``shape``, where one length may be -1.
    - ``slice``: from ``start`` to ``stop`` along ``axis``.
    - ``negate``: the sign bit only, which is exact in every float dtype.
    - ``cast``: to ``dtype`` (safetensors' name), rounding to nearest even; the report says whether a value changed.

    A permutation of rows, as torchtune's of q and k, is ``reshape``, ``permute``, ``reshape``.
    """

    kind: str
    params: Mapping[str, object] = field(default_factory=dict)


TRANSPOSE = Transform("transpose")
NEGATE = Transform("negate")


def permute(*axes: int) -> Transform:
    """Reorder the axes."""
    return Transform("permute", {"axes": axes})


def reshape(*shape: int) -> Transform:
    """Read the same elements, row-major, in another shape."""
    return Transform("reshape", {"shape": shape})


def section(axis: int, start: int, stop: int) -> Transform:
    """Elements ``start`` to ``stop`` along ``axis``."""
    return Transform("slice", {"axis": axis, "start": start, "stop": stop})


def cast(dtype: str) -> Transform:
    """Convert to safetensors' ``dtype``."""
    return Transform("cast", {"dtype": dtype})


@dataclass(frozen=True, slots=True)
class Source:
    """An input of a step: the id of an :class:`Origin` in the plan, and what is done to it first."""

    name: str
    transforms: tuple[Transform, ...] = ()


@dataclass(frozen=True, slots=True)
class TensorStep:
    """One tensor of the result.

    Several ``sources`` are concatenated along ``axis``; then ``transforms`` are applied in order. ``why`` is a clause for the
    report, empty when the tensor is copied under its own name.
    """

    target: str
    sources: tuple[Source, ...]
    transforms: tuple[Transform, ...] = ()
    axis: int = 0
    why: str = ""

    @classmethod
    def of(cls, target: str, source: str, *transforms: Transform, why: str = "") -> TensorStep:
        """A tensor made from one other."""
        return cls(target, (Source(source),), transforms, why=why)

    @property
    def is_copy(self) -> bool:
        """Whether the bytes stay as they are."""
        return len(self.sources) == 1 and not self.transforms and not self.sources[0].transforms


@dataclass(frozen=True, slots=True)
class ConfigStep:
    """One field of ``adapter_config.json``: ``old`` and ``new`` are JSON values or :data:`ABSENT`."""

    field: str
    old: object
    new: object
    why: str


@dataclass(frozen=True, slots=True)
class Drop:
    """A tensor (or file, with ``is_file``) that the result leaves out."""

    name: str
    why: str
    is_file: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """What could not be repaired without guessing, and the ``evidence`` that would decide it."""

    what: str
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole of it.

    ``origins`` are the source tensors by the id that the steps use: the tensor's name in the file, unless files share names.
    ``config`` is the finished config as it will be written, ``config_steps`` how it differs from the old one. ``files`` says
    what changes about the files while their content stays (a `.bin` becomes safetensors, a byte order mark goes). ``notes`` are
    things to know that change nothing. A plan with ``refusals`` is not carried out.
    """

    origins: Mapping[str, Origin]
    tensors: tuple[TensorStep, ...]
    config: Mapping[str, object]
    config_steps: tuple[ConfigStep, ...] = ()
    drops: tuple[Drop, ...] = ()
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=lambda: {"format": "pt"})

    @property
    def changes(self) -> bool:
        """Whether the result differs from the input at all."""
        return bool(self.config_steps or self.drops or self.files or any(s.why for s in self.tensors))
