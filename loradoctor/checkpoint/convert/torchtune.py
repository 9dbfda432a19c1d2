"""torchtune's own adapter files: its module names, and q and k in the order of interleaved RoPE.

Names are those of torchtune/models/convert_weights.py (`_FROM_HF`). Loading a model from the hub, torchtune reorders the output
rows of q and k for most architectures (`hf_to_tune`); undoing it concerns every tensor that has these rows: `lora_b` and the
magnitude of DoRA. torchtune's exporter leaves the magnitude as it is, and reorders for Qwen2, whose rows were never moved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from loradoctor.checkpoint.adapter_config import number
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.convert import base_model
from loradoctor.checkpoint.convert.base_model import BaseModel
from loradoctor.checkpoint.convert.parts import Material, Part, Piece, origins, plan
from loradoctor.checkpoint.wording import listed
from loradoctor.repair.plan import Plan, Refusal, Transform, permute, reshape

_MODULES = {
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj",
    "mlp.w1": "mlp.gate_proj",
    "mlp.w2": "mlp.down_proj",
    "mlp.w3": "mlp.up_proj",
}
_INTERLEAVED = frozenset({"llama", "mistral", "gemma", "gemma2"})
_IN_ORDER = frozenset({"qwen2"})
_LEAF = re.compile(r"(.+)\.(lora_a\.weight|lora_b\.weight|magnitude)")
_ROLES = {"lora_a.weight": "lora_A.weight", "lora_b.weight": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
_TOOL = "torchtune's tensor"


def convert(checkpoint: Checkpoint, bases: Mapping[str, BaseModel]) -> dict[str, Plan]:
    """A file of torchtune's adapter weights, with the base's config from ``bases`` or from beside it, where torchtune copies it."""
    base = bases.get("")
    config = (base.config if base is not None else None) or base_model.config(checkpoint.directory)
    raw = dict(checkpoint.config.raw) if checkpoint.config is not None else {}
    refusals: list[Refusal] = []
    found: dict[str, dict[str, str]] = {}
    for name in checkpoint.tensors:
        if (match := _LEAF.fullmatch(name)) and (module := _renamed(match[1])):
            found.setdefault(module, {})[match[2]] = name
        else:
            refusals.append(Refusal(f"`{name}` has no counterpart in transformers' Llama-like models"))
    alpha = number(raw.get("lora_alpha"))
    if alpha is None:
        evidence = "`lora_alpha` of the recipe, in an `adapter_config.json` beside the weights"
        refusals.append(Refusal("alpha is not in torchtune's weights", evidence))
    orders, doubt = _orders(config, found)
    refusals += doubt
    parts = []
    for module, leaves in found.items():
        part = _part(checkpoint, module, leaves, alpha or 1.0, orders.get(module.rpartition(".")[2], ()))
        if isinstance(part, Part):
            parts.append(part)
        else:
            refusals.append(part)
    fields: dict[str, object] = {
        "task_type": raw.get("task_type") or "CAUSAL_LM",
        "base_model_name_or_path": raw.get("base_model_name_or_path"),
        "use_dora": any("magnitude" in leaves for leaves in found.values()),
    }
    path = checkpoint.weights
    sources = origins(path, checkpoint.tensors) if path is not None else {}
    return {"": plan(Material(tuple(parts), sources, fields, raw, refusals=tuple(refusals), tool=_TOOL), base)}


def _renamed(module: str) -> str:
    if module == "output":
        return "lm_head"
    match = re.fullmatch(r"layers\.(\d+)\.(.+)", module)
    return f"model.layers.{match[1]}.{_MODULES[match[2]]}" if match and match[2] in _MODULES else ""


def _part(checkpoint: Checkpoint, module: str, leaves: Mapping[str, str], alpha: float, order: tuple[int, ...]) -> Part | Refusal:
    if not {"lora_a.weight", "lora_b.weight"} <= leaves.keys():
        return Refusal(f"`{module}` has only {listed(sorted(leaves))}")
    first, second = (checkpoint.tensors[leaves[f"lora_{half}.weight"]].shape for half in "ab")
    if len(first) != 2 or len(second) != 2 or first[0] != second[1]:
        return Refusal(f"`{module}` has halves of the shapes {list(first)} and {list(second)}, which do not fit each other")
    tensors: dict[str, Piece] = {}
    for leaf, name in leaves.items():
        shape = checkpoint.tensors[name].shape
        moved = order and leaf != "lora_a.weight"
        if moved and shape[0] != order[0] * order[1]:
            heads, width = order
            return Refusal(
                f"`{name}` has {shape[0]} rows, but the base's config says {heads} heads of {width}", "the base it was trained on"
            )
        tensors[_ROLES[leaf]] = Piece(
            name, deinterleaved(*order, *shape[1:]) if moved else (), "rows in the order of transformers' RoPE" if moved else ""
        )
    return Part(module, first[0], alpha, tensors)


def deinterleaved(heads: int, width: int, *columns: int) -> tuple[Transform, ...]:
    """Rows (pair, 2) within each head → (2, pair), as `tune_to_peft_adapter_weights` does for `lora_b`."""
    axes = (0, 2, 1, 3) if columns else (0, 2, 1)
    return (reshape(heads, width // 2, 2, *columns), permute(*axes), reshape(heads * width, *columns))


def _orders(config: Mapping[str, Any], found: Mapping[str, object]) -> tuple[dict[str, tuple[int, int]], list[Refusal]]:
    """Projection → (heads, head width) where rows must be reordered, or why that is not known."""
    rotated = [m for m in found if m.endswith((".q_proj", ".k_proj"))]
    if not rotated:
        return {}, []
    kind = config.get("model_type")
    if kind in _IN_ORDER:
        return {}, []
    if kind not in _INTERLEAVED:
        said = f"the base is `{kind}`, whose rows torchtune may have moved in its own way" if kind else "the base's config is not at hand"
        return {}, [
            Refusal(f"the order of the rows of q and k is not known: {said}", "`config.json` of a Llama, Mistral, Gemma or Qwen2 base")
        ]
    heads, width = config.get("num_attention_heads"), config.get("head_dim")
    pairs = config.get("num_key_value_heads") or heads
    hidden = config.get("hidden_size")
    if not width and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        width = hidden // heads
    if not all(isinstance(n, int) and n > 0 for n in (heads, pairs, width)) or int(str(width)) % 2:
        return {}, [Refusal("the base's config does not say how many heads there are", "`num_attention_heads` and `hidden_size`")]
    return {"q_proj": (int(str(heads)), int(str(width))), "k_proj": (int(str(pairs)), int(str(width)))}, []
