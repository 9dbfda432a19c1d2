"""The base models: hidden size 32, two layers, 64 tokens, made from configs with fixed seeds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from build_adapters import edit, first, rename, rewrite_header, setting, train
from peft import LoraConfig, PeftConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, LlamaModel, MixtralConfig, MixtralForCausalLM

__all__ = ["BASES", "adapt", "drop", "edit", "first", "keep", "lora", "model", "rename", "rewrite_header", "save", "setting", "train"]

NAME = "loradoctor/tiny"
TARGETS = ["q_proj", "v_proj", "up_proj"]
_LLAMA: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 64, "max_position_embeddings": 32, "tie_word_embeddings": False,
}  # fmt: skip


def _llama(cls: Any = LlamaForCausalLM, **more: Any) -> Any:
    return cls(LlamaConfig(**{**_LLAMA, **more}))


def _gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=32, vocab_size=64, tie_word_embeddings=True))


def _mixtral() -> Any:
    return MixtralForCausalLM(MixtralConfig(**{**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}))


BASES: dict[str, tuple[Callable[[], Any], int, torch.dtype]] = {
    "llama": (_llama, 0, torch.float32),
    "llama-4-layers": (functools.partial(_llama, num_hidden_layers=4), 0, torch.float32),
    "llama-wide": (functools.partial(_llama, hidden_size=64), 0, torch.float32),
    "llama-other": (_llama, 9, torch.float32),
    "llama-tied": (functools.partial(_llama, tie_word_embeddings=True), 0, torch.float32),
    "llama-bfloat16": (_llama, 0, torch.bfloat16),
    "llama-float16": (_llama, 0, torch.float16),
    "llama-backbone": (functools.partial(_llama, LlamaModel), 0, torch.float32),
    "gpt2": (_gpt2, 0, torch.float32),
    "mixtral": (_mixtral, 0, torch.float32),
}


def model(name: str = "llama") -> Any:
    """A fresh copy of a base with its fixed weights."""
    build, seed, dtype = BASES[name]
    torch.manual_seed(seed)
    made = build().to(dtype).eval()
    made.config.name_or_path = made.name_or_path = f"{NAME}-{name}"
    return made


def lora(**more: Any) -> LoraConfig:
    """The usual config: q, v and up, rank 4, alpha 8."""
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": list(TARGETS), "task_type": "CAUSAL_LM", **more})


def adapt(config: PeftConfig | None = None, on: str = "llama", **more: Any) -> Any:
    """A base with an adapter that was trained a little."""
    return train(get_peft_model(model(on), config or lora(), **more))


def save(to: Path, on: str = "llama", **more: Any) -> None:
    """A LoRA as PEFT saves it."""
    adapt(lora(**more), on).save_pretrained(to)


def keep(to: Path, wanted: Callable[[str], bool]) -> None:
    """Keep only some tensors."""
    edit(to, lambda tensors: {k: v for k, v in tensors.items() if wanted(k)})


def drop(to: Path, part: str) -> None:
    """Remove the tensors whose names hold ``part``."""
    keep(to, lambda k: part not in k)
