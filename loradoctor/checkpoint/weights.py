"""Which weights file PEFT would choose, and what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loradoctor.checkpoint import neighbours
from loradoctor.checkpoint.fault import Fault, ReadError
from loradoctor.checkpoint.header import Header, read_header
from loradoctor.checkpoint.tensor import TensorInfo

SAFETENSORS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
NAMES = (SAFETENSORS, PICKLE)
"""In the order in which PEFT looks (peft/utils/save_and_load.py, load_peft_weights)."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The chosen file and its tensors; ``path`` is None when there is none that PEFT reads."""

    path: Path | None
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    repeated: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()


def read(path: Path) -> Header:
    """The header of one weights file, by its name's ending. Raises :class:`ReadError` and OSError."""
    if path.suffix == ".safetensors":
        return read_header(path)
    if path.suffix == ".gguf":
        from loradoctor.checkpoint.gguf import read_gguf

        return read_gguf(path)
    from loradoctor.checkpoint.archive import read_archive

    return read_archive(path)


def find(directory: Path, explicit: Path | None = None) -> Weights:
    """The weights of ``directory`` (``explicit`` when the user named a file), faults collected instead of raised."""
    path = explicit or next((directory / name for name in NAMES if (directory / name).is_file()), None)
    faults: tuple[Fault, ...] = ()
    if path is None:
        found = neighbours.look(directory, read)
        path, faults = found.path, (found.fault,) if found.fault is not None else ()
        if path is None:
            return Weights(None, faults=faults)
    try:
        header = read(path)
    except ReadError as error:
        # A pointer under another name is first of all a pointer.
        return Weights(path, faults=(error.fault, *faults))
    except OSError as error:
        fault = Fault("unreadable-file", f"`{path.name}` cannot be read: {(error.strerror or str(error)).lower()}", file=path.name)
        return Weights(path, faults=(fault, *faults))
    return Weights(path, header.tensors, header.metadata, header.repeated, faults)


def second_file(directory: Path, chosen: Path | None) -> Path | None:
    """`adapter_model.bin` beside a chosen `adapter_model.safetensors`."""
    other = directory / PICKLE
    return other if chosen is not None and chosen.name == SAFETENSORS and other.is_file() else None
