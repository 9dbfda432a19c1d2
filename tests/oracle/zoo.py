"""Tiny real models and adapters, made with the calls that users make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

# One thread: two of them on a busy machine take several times as long.
torch.set_num_threads(1)

TARGETS = ["q_proj", "v_proj", "up_proj"]


def llama(directory: Path, *, cls: str = "LlamaForCausalLM", dtype: torch.dtype = torch.float32, seed: int = 0, **config: Any) -> Any:
    """A llama of hidden size 32 with two layers, saved to ``directory``."""
    torch.manual_seed(seed)
    settings = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 64,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        **config,
    }
    model = getattr(transformers, cls)(transformers.LlamaConfig(**settings)).to(dtype)
    model.save_pretrained(directory)
    return model


def gpt2(directory: Path) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=64, bos_token_id=1, eos_token_id=2)
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(directory)
    return model


def train(model: Any, std: float = 0.05) -> Any:
    """Stand in for training: noise on everything trainable."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data += torch.randn_like(parameter) * std
    return model


def adapter(directory: Path, model: Any, config: Any, *, base: Path | None, std: float = 0.05, change: Callable[[Any], None] | None = None) -> Path:
    """``get_peft_model``, train, ``save_pretrained``; the config names ``base``."""
    model.name_or_path = str(base) if base is not None else ""
    wrapped = train(get_peft_model(model, config), std)
    wrapped.peft_config["default"].base_model_name_or_path = str(base) if base is not None else None
    if change is not None:
        change(wrapped)
    wrapped.save_pretrained(directory)
    return directory


def lora(**fields: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": list(TARGETS), "task_type": "CAUSAL_LM", **fields})


def edited(
    source: Path,
    target: Path,
    keys: Callable[[str], str | None] = lambda key: key,
    config: dict[str, Any] | None = None,
) -> Path:
    """A copy of an adapter with its keys renamed (None drops one) and its config changed."""
    shutil.copytree(source, target)
    tensors = load_file(source / "adapter_model.safetensors")
    save_file({new: t.clone() for k, t in tensors.items() if (new := keys(k)) is not None}, target / "adapter_model.safetensors")
    raw = json.loads((source / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps({**raw, **(config or {})}))
    return target


def has(name: str) -> bool:
    """Whether the installed PEFT has this config class."""
    return hasattr(peft, name)
