"""Merged models made by hand from a base and a LoRA adapter, right or wrong in a known way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from tests.oracle import zoo

State = dict[str, torch.Tensor]
LAYERS = 4
TARGETS = ["q_proj", "o_proj", "up_proj"]


def model(directory: Path, dtype: torch.dtype, **fields):
    return zoo.llama(directory, dtype=dtype, **{"num_hidden_layers": LAYERS, "hidden_size": 64, "intermediate_size": 96, **fields})


def trained(directory: Path, base: Path, dtype: torch.dtype, std: float = 0.05, seed: int = 1, **fields) -> Path:
    """An adapter for the model in ``base``; a large ``std`` gives a large update."""
    import transformers

    loaded = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    config = LoraConfig(**{"r": 8, "lora_alpha": 12, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **fields})
    wrapped = get_peft_model(loaded, config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * std
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    wrapped.save_pretrained(directory)
    return directory


def updates(adapter: Path) -> State:
    """The update of every adapted weight of a plain LoRA, float32, by the name of the weight."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    found: State = {}
    for key, a in tensors.items():
        if key.endswith(".lora_A.weight"):
            b = tensors[key.replace("lora_A", "lora_B")].float()
            rank = a.shape[0]
            scale = config["lora_alpha"] / (rank**0.5 if config["use_rslora"] else rank)
            found[key.removeprefix("base_model.model.").replace(".lora_A", "")] = scale * b @ a.float()
    return found


def weights(base: Path) -> State:
    return load_file(base / "model.safetensors")


def merged(base: State, deltas: State) -> State:
    """Right, in float32 and then cast: what most programs do."""
    return {n: (w.float() + deltas[n]).to(w.dtype) if n in deltas else w for n, w in base.items()}


def write(directory: Path, state: State, like: Path, *, sharded: bool = False, pickled: bool = False) -> Path:
    """A model's directory with ``state`` and the config of ``like``."""
    directory.mkdir(parents=True)
    shutil.copy(like / "config.json", directory)
    state = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    stem, ending = ("pytorch_model", ".bin") if pickled else ("model", ".safetensors")
    save: Callable[[State, Path], None] = torch.save if pickled else save_file
    if not sharded:
        save(state, directory / f"{stem}{ending}")
        return directory
    names = sorted(state)
    files = {f"{stem}-{i + 1:05}-of-00003{ending}": names[i::3] for i in range(3)}
    for file, own in files.items():
        save({n: state[n] for n in own}, directory / file)
    index = {"metadata": {}, "weight_map": {n: file for file, own in files.items() for n in own}}
    (directory / f"{stem}{ending}.index.json").write_text(json.dumps(index))
    return directory
