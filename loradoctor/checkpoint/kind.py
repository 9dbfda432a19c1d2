"""What a directory is, who wrote it, and what else of a training lies in it: facts for the first lines of the card."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loradoctor.checkpoint.opening import opened

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint

_TITLES = {
    "mlx": "adapter of mlx-lm",
    "torchtune": "adapter of torchtune",
    "kohya": "LoRA file of kohya's scripts",
    "lycoris": "LyCORIS file",
    "comfyui": "LoRA file for ComfyUI",
    "diffusers": "LoRA file of an older version of diffusers",
    "diffusers-pipeline": "LoRA file of a diffusers pipeline",
    "gguf": "LoRA in GGUF for llama.cpp",
    "gguf-quantized": "quantized LoRA in GGUF for llama.cpp",
    "gguf-model": "whole model in GGUF",
    "sharded": "adapter in shards",
    "partitioned": "distributed training checkpoint that was not gathered",
    "inside-a-model": "full model with adapter tensors among its weights",
    "nested-state-dict": "training program's own checkpoint with a state dict inside",
    "whole-object": "pickled object",
    "several": "several adapter files",
}
_STATE = re.compile(
    r"optimizer(\.pt|\.bin|_\d+)?|scheduler\.pt|rng_state(_\d+)?\.pth|scaler\.pt|trainer_state\.json|global_step\d+|zero_to_fp32\.py"
    r"|pytorch_model_fsdp(_\d+)?(\.bin)?|.*\.distcp|recipe_state(\.pt)?|training_args\.bin|.*mp_rank_\d+.*_states\.pt"
)
_TOOLS = (
    ("LLaMA-Factory", ("trainer_log.jsonl", "llamaboard_config.yaml", "training_args.yaml"), "llama-factory", "llamafactory."),
    ("axolotl", ("axolotl_config.yaml",), "axolotl", "axolotl."),
    ("ms-swift", (), "ms-swift", "swift."),
    ("Unsloth", (), "unsloth", "unsloth"),
    ("TRL", (), "trl", "trl."),
)
"""Tool, files that only it writes, its tag on a model card, and the module of its training arguments."""
_ARGUMENTS = re.compile(rb"c((?:trl|transformers|axolotl|llamafactory|swift|Unsloth\w*|unsloth\w*)(?:\.\w+)*)\n(\w+)\n")
"""A class that a pickle of protocol 2 names (opcode GLOBAL), as `torch.save(args)` writes it."""
_HEAD = 1 << 16
_TAG = re.compile(r"^\s*-\s*([\w-]+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Kind:
    """``name`` is for programs, ``title`` for people: "a PEFT adapter in a checkpoint of TRL's SFTTrainer at step 40".

    ``writer`` is the tool behind it where files or cards tell, ``state`` what a resumed training would read.
    """

    name: str
    title: str
    writer: str | None = None
    state: tuple[str, ...] = ()


def kind_of(checkpoint: Checkpoint) -> Kind:
    """Read off the names in the directory and a few bytes of small files."""
    names = _names(checkpoint.directory)
    state = tuple(n for n in names if _STATE.fullmatch(n))
    writer = _writer(checkpoint, names)
    if special := _special(checkpoint):
        return Kind(special, _TITLES[special], writer, state)
    if "trainer_state.json" in names:
        return Kind("trainer-checkpoint", f"adapter in a checkpoint of {_trainer(checkpoint.directory, writer)}", writer, state)
    if checkpoint.config is None and not checkpoint.tensors:
        return Kind("unknown", "no adapter that could be read", writer, state)
    return Kind("adapter", "adapter", writer, state)


def _special(checkpoint: Checkpoint) -> str:
    if checkpoint.foreign is not None:
        return checkpoint.foreign[0].name
    causes = [str(f.data.get("cause")) for f in checkpoint.faults]
    config = checkpoint.config
    if config is not None and config.peft_type is None and config.get("lora_parameters") is not None:
        return "mlx"
    return next((c for c in causes if c in _TITLES), "")


def _names(directory: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(p.name for p in directory.iterdir()))
    except OSError:
        return ()


def _trainer(directory: Path, writer: str | None) -> str:
    step = _step(directory / "trainer_state.json")
    who = f"{writer}'s trainer" if writer and "Trainer" not in writer else writer or "transformers' Trainer"
    return who if step is None else f"{who} at step {step:,}"


def _step(path: Path) -> int | None:
    """`global_step` of a trainer's state, whose log history may be long: only read when it is short enough to parse at once."""
    try:
        with opened(path) as file:
            data = file.read(1 << 22)
        step = json.loads(data).get("global_step")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def _writer(checkpoint: Checkpoint, names: Iterable[str]) -> str | None:
    """The tool that trained this, from what only it leaves; None when nothing tells."""
    present = frozenset(names)
    arguments = _arguments(checkpoint.directory / "training_args.bin") if "training_args.bin" in present else ""
    tags = _tags(checkpoint.directory / "README.md") if "README.md" in present else frozenset()
    for tool, files, tag, module in _TOOLS:
        if any(f in present for f in files) or tag in tags or arguments.lower().startswith(module.lower()):
            return f"TRL's {_trainer_of(arguments)}" if tool == "TRL" and arguments.startswith("trl.") else tool
    if "args.json" in present and b'"swift_version"' in _head(checkpoint.directory / "args.json"):
        return "ms-swift"
    auto = checkpoint.config.get("auto_mapping") if checkpoint.config is not None else None
    if isinstance(auto, Mapping) and auto.get("unsloth_fixed"):
        return "Unsloth"
    return "transformers' Trainer" if arguments.startswith("transformers.") else None


def _trainer_of(arguments: str) -> str:
    """``trl.trainer.sft_config.SFTConfig`` → ``SFTTrainer``."""
    return re.sub("Config$", "Trainer", arguments.rpartition(".")[2])


def _arguments(path: Path) -> str:
    match = _ARGUMENTS.search(_head(path))
    return f"{match[1].decode()}.{match[2].decode()}" if match else ""


def _tags(path: Path) -> frozenset[str]:
    """The list entries of a model card's front matter."""
    text = _head(path).decode("utf-8", "replace")
    if not text.startswith("---"):
        return frozenset()
    return frozenset(t.lower() for t in _TAG.findall(text.split("\n---", 1)[0]))


def _head(path: Path) -> bytes:
    try:
        with opened(path) as file:
            return file.read(_HEAD)
    except OSError:
        return b""
