"""Tensors without an adapter role: which of them the config asks for, which would overwrite the base model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loradoctor.checkpoint.adapter_config import strings
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.key import Key

HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)}
"""What PEFT adds to `modules_to_save` by task (peft/peft_model.py, the PeftModelFor… classes)."""

_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|shared|embeddings?|lm_head|embed_out|output)$")
_OUTPUT = re.compile(r"(^|\.)(lm_head|embed_out|output)$")


def is_embedding(key: Key) -> bool:
    """Whether a key is the matrix of an input or output embedding."""
    return _EMBEDDING.search(key.module) is not None and key.suffix == "weight"


def owners(module: str) -> Iterator[str]:
    """``a.b.c`` → ``a.b.c``, ``a.b``, ``a``: a module and what holds it."""
    while module:
        yield module
        module = module.rpartition(".")[0]


def saved_whole(checkpoint: Checkpoint, names: Sequence[str]) -> dict[str, list[Key]]:
    """Name → the plain tensors below a module whose path ends with it (PEFT compares with ``endswith``, without a dot)."""
    plain = [k for k in checkpoint.keys if k.role in ("", "modules_to_save")]
    return {name: [k for k in plain if any(owner.endswith(name) for owner in owners(k.module))] for name in names}


@dataclass(frozen=True, slots=True)
class Plain:
    """Keys that would land in the base model without being asked for, by why they may be there."""

    base: tuple[Key, ...]
    embeddings: tuple[Key, ...]
    biases: tuple[Key, ...]


def undeclared(checkpoint: Checkpoint) -> Plain:
    """The tensors that hit parameters of the base model although nothing in the config asks for them."""
    config = checkpoint.config
    if config is None:
        return Plain((), (), ())
    asked = (*config.modules_to_save, *HEADS.get(config.task_type or "", ()))
    declared = {k.name for keys in saved_whole(checkpoint, asked).values() for k in keys}
    targets = strings(config.get("target_modules"))
    bias = config.get("bias") in ("all", "lora_only") or str(config.get("bias", "")).endswith("_only")
    base: list[Key] = []
    embeddings: list[Key] = []
    biases: list[Key] = []
    for key in checkpoint.keys:
        if key.name in declared or key.role not in ("", "base_layer") or not key.name.startswith("base_model.model."):
            continue
        if "bias" in key.suffix:  # PEFT saves by this: the `in_proj_bias` of an attention is one too
            if not bias:
                biases.append(key)
        elif _EMBEDDING.search(key.module) and key.suffix == "weight":
            if key.role == "" or not any(key.short == t or key.module == t for t in targets):
                embeddings.append(key)
        else:
            base.append(key)
    return Plain(tuple(base), tuple(embeddings), tuple(biases))


def is_resized_vocabulary(checkpoint: Checkpoint, embeddings: Sequence[Key]) -> bool:
    """Whether these look like PEFT's own saving of resized embeddings: input and output with the same number of rows.

    ``save_embedding_layers="auto"`` writes both when the vocabulary was changed. An encoder has no output embedding.
    """
    outputs = [k for k in embeddings if _OUTPUT.search(k.module)]
    inputs = [k for k in embeddings if not _OUTPUT.search(k.module)]
    rows = {checkpoint.tensors[k.name].shape[:1] for k in embeddings}
    causal = checkpoint.config is not None and checkpoint.config.task_type == "CAUSAL_LM"
    return bool(inputs) and (bool(outputs) or not causal) and len(rows) == 1
