"""Carry out a plan: the result in a new directory, tensor by tensor, and the rest of the old one beside it."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from loradoctor.checkpoint import adapter_config, weights
from loradoctor.checkpoint.tensor import BITS
from loradoctor.repair import arrays
from loradoctor.repair.plan import Drop, Plan, TensorStep

_STATE = (
    "optimizer", "scheduler", "scaler", "rng_state", "training_args.bin", "global_step", "pytorch_model_fsdp", "mp_rank_", "zero_pp_rank_",
    "latest", "zero_to_fp32.py", "random_states_",
)  # fmt: skip
"""Starts of the names under which trainers keep what only resuming needs."""
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib")
_WEIGHTS = (".safetensors", ".gguf", ".onnx", ".h5", ".msgpack")
_SKIPPED_DIRECTORIES = (".git", ".cache", "__pycache__", "runs", "wandb")
_DEPTH = 4


def write(plan: Plan, to: Path) -> None:
    """Write config and weights of ``plan`` into the existing directory ``to``. Raises OSError and :class:`arrays.Inexact`."""
    text = json.dumps(plan.config, indent=2, sort_keys=True, ensure_ascii=False)
    (to / adapter_config.NAME).write_text(f"{text}\n", encoding="utf-8")
    _tensors(plan, to / weights.SAFETENSORS)


def _tensors(plan: Plan, path: Path) -> None:
    infos = {step.target: arrays.result_of(plan, step) for step in plan.tensors}
    # As safetensors' own writer: wide dtypes first, so that every tensor is aligned, then by name.
    ordered = sorted(plan.tensors, key=lambda s: (-BITS[infos[s.target].dtype], s.target))
    header: dict[str, object] = {"__metadata__": dict(plan.metadata)} if plan.metadata else {}
    position = 0
    for step in ordered:
        info = infos[step.target]
        header[step.target] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [position, position + info.nbytes]}
        position += info.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for step in ordered:
            _one(plan, step, file.write, infos[step.target].nbytes)


def _one(plan: Plan, step: TensorStep, put: Callable[[bytes], int], wanted: int) -> None:
    written = sum(put(piece) for piece in arrays.pieces(plan, step))
    if written != wanted:
        raise OSError(f"`{step.target}` has {written} bytes instead of {wanted}: its file changed while it was read")


def carry(directory: Path, to: Path, replaced: Iterable[Path]) -> tuple[list[str], list[Drop]]:
    """Copy everything but weights, config and training states; what was copied and what was left behind, by relative path."""
    names = {p.name for p in replaced} | {adapter_config.NAME, *weights.NAMES, "repair-report.json"}
    copied: list[str] = []
    left: list[Drop] = []
    _carry(directory, to, "", names, copied, left, _DEPTH)
    return copied, left


def _carry(here: Path, to: Path, prefix: str, own: set[str], copied: list[str], left: list[Drop], depth: int) -> None:
    for path in sorted(here.iterdir()):
        shown = f"{prefix}{path.name}"
        if not prefix and path.name in own:
            continue
        if reason := _left_behind(path, depth):
            left.append(Drop(shown, reason, is_file=True))
        elif path.is_dir():
            (to / path.name).mkdir()
            _carry(path, to / path.name, f"{shown}/", own, copied, left, depth - 1)
        else:
            shutil.copyfile(path, to / path.name)
            copied.append(shown)


def _left_behind(path: Path, depth: int) -> str:
    """Why a file or directory is not carried along; empty when it is."""
    mode = path.stat().st_mode if path.exists() else 0
    if path.name.startswith(_STATE):
        return "state of the training, which only resuming it needs"
    if stat.S_ISDIR(mode):
        if path.is_symlink():
            return "a link to another directory"
        if (path / adapter_config.NAME).is_file() or path.name.startswith("checkpoint-"):
            return "another adapter: repair it by itself"
        return "not part of the adapter" if path.name in _SKIPPED_DIRECTORIES or depth == 0 else ""
    if not stat.S_ISREG(mode):
        return "neither a file nor a directory"
    if path.suffix in _PICKLES:
        return "a pickle, which can run code when it is loaded"
    if path.suffix in _WEIGHTS:
        return "other weights than the adapter's"
    return "a link to a file elsewhere" if path.is_symlink() and not _nearby(path) else ""


def _nearby(link: Path) -> bool:
    """Whether a link leads into its own directory, or into the `blobs` of the hub's cache, where snapshots keep their content."""
    target, home = link.resolve(), link.parent.resolve()
    return target.is_relative_to(home) or any(target.is_relative_to(up / "blobs") for up in home.parents)
