"""Which weights file PEFT would choose, and what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loradoctor.checkpoint.fault import Fault, ReadError
from loradoctor.checkpoint.header import Header, read_header
from loradoctor.checkpoint.tensor import TensorInfo

SAFETENSORS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
NAMES = (SAFETENSORS, PICKLE)
"""In the order in which PEFT looks (peft/utils/save_and_load.py, load_peft_weights)."""

_ELSEWHERE = {
    "adapters.safetensors": "MLX writes this name",
    "model.safetensors": "a full model, or an adapter under the wrong name",
    "pytorch_model.bin": "a full model, or an adapter under the wrong name",
    "pytorch_lora_weights.safetensors": "diffusers writes this name",
    "adapter.safetensors": "not the name that PEFT reads",
    "adapter_0.safetensors": "torchtune writes this name",
}

_PARTITIONED = ("global_step", "pytorch_model_fsdp")
"""Directories of DeepSpeed and of FSDP with a part of the state per process."""


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
    from loradoctor.checkpoint.archive import read_archive

    return read_archive(path)


def find(directory: Path, explicit: Path | None = None) -> Weights:
    """The weights of ``directory`` (``explicit`` when the user named a file), faults collected instead of raised."""
    path = explicit or next((directory / name for name in NAMES if (directory / name).is_file()), None)
    if path is None:
        path, fault = _misplaced(directory)
        if path is None:
            return Weights(None, faults=(fault,))
        faults: tuple[Fault, ...] = (fault,)
    else:
        faults = ()
    try:
        header = read(path)
    except ReadError as error:
        # A pointer under another name is first of all a pointer.
        return Weights(path, faults=(error.fault, *faults))
    except OSError as error:
        fault = Fault("unreadable-file", f"`{path.name}` cannot be read: {(error.strerror or str(error)).lower()}", file=path.name)
        return Weights(path, faults=(fault, *faults))
    return Weights(path, header.tensors, header.metadata, header.repeated, faults)


def _misplaced(directory: Path) -> tuple[Path | None, Fault]:
    """No file with PEFT's names: what else is there, and what that means."""
    names = sorted(p.name for p in directory.iterdir() if p.is_file())
    shards = [n for n in names if n.startswith("adapter_model-") and n.endswith((".safetensors", ".bin"))]
    known = [n for n in names if n in _ELSEWHERE]
    missing = "PEFT looks for `adapter_model.safetensors`, then `adapter_model.bin`, then asks the hub and stops with a "
    "misleading error"
    if shards:
        shown = f"`{shards[0]}`"
        return None, Fault(
            "no-weights",
            f"the weights are in {len(shards)} shards ({shown} …), which PEFT does not read",
            f"{missing}: join the shards into one `{SAFETENSORS}`",
            data={"cause": "sharded", "files": shards},
        )
    if "adapters.safetensors" in known:
        return directory / "adapters.safetensors", Fault(
            "foreign-format",
            "the directory is in MLX's format: `adapters.safetensors` with `lora_a` and `lora_b` tensors",
            "PEFT does not read it: convert the tensors (transpose both halves, alpha = scale x rank) and the config, or use "
            "it with mlx-lm",
            file="adapters.safetensors",
            data={"cause": "mlx"},
        )
    partial = sorted(p.name for p in directory.iterdir() if p.is_dir() and p.name.startswith(_PARTITIONED))
    if partial:
        return None, Fault(
            "no-weights",
            f"there are only partitioned states here (`{partial[0]}`), no adapter weights",
            f"{missing}: gather them with `zero_to_fp32.py` (DeepSpeed) or `accelerate merge-weights` (FSDP) and save the adapter",
            data={"cause": "partitioned", "files": partial},
        )
    if known:
        return None, Fault(
            "no-weights",
            f"there are no adapter weights; `{known[0]}` is here ({_ELSEWHERE[known[0]]})",
            missing,
            data={"cause": "other-name", "files": known},
        )
    return None, Fault("no-weights", "there are no adapter weights here", missing, data={"cause": "absent", "files": []})


def second_file(directory: Path, chosen: Path | None) -> Path | None:
    """`adapter_model.bin` beside a chosen `adapter_model.safetensors`."""
    other = directory / PICKLE
    return other if chosen is not None and chosen.name == SAFETENSORS and other.is_file() else None
