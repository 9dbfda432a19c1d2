"""llama.cpp's LoRA files: ggml's tensor names, alpha in the header, q and k of Llama in the order of ggml's RoPE.

`convert_lora_to_gguf.py` sends both halves through the same changes as the base's weights. For Llama these move the rows of q and
k (`LlamaModel.permute`), which concerns `lora_b`; for the architectures of :data:`_IN_ORDER` it only renames. An embedding's
`lora_a` is stored transposed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from loradoctor.checkpoint.adapter_config import number
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.convert.base_model import BaseModel
from loradoctor.checkpoint.convert.parts import Material, Part, Piece, origins, plan
from loradoctor.checkpoint.wording import listed
from loradoctor.repair.plan import Plan, Refusal, Transform, permute, reshape

_MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROTATED = frozenset({"llama"})
_IN_ORDER = frozenset({"qwen2", "qwen3", "gemma", "gemma2", "gemma3"})
_TOOL = "ggml's tensor"


def convert(checkpoint: Checkpoint, bases: Mapping[str, BaseModel]) -> dict[str, Plan]:
    """A GGUF file with `general.type` = adapter."""
    base = bases.get("")
    metadata = checkpoint.metadata
    architecture = metadata.get("general.architecture", "")
    refusals: list[Refusal] = []
    if architecture not in _ROTATED | _IN_ORDER:
        refusals.append(Refusal(f"what llama.cpp's converter changes in tensors of `{architecture}` is not known here to be exact"))
    if "adapter.alora.invocation_tokens" in metadata:
        refusals.append(Refusal("it is an activated LoRA, whose tokens PEFT keeps in the config"))
    # llama.cpp applies the factor 1 when the header has no alpha or zero (llama-adapter.h, get_scale).
    alpha = number(_plain(metadata.get("adapter.lora.alpha", ""))) or None
    orders: dict[str, tuple[int, int]] = {}
    found: dict[str, dict[str, str]] = {}
    for name in checkpoint.tensors:
        match = re.fullmatch(r"(?:blk\.(\d+)\.(\w+)|(output|token_embd))\.weight\.lora_([ab])", name)
        inner = _MODULES.get(match[2]) if match and match[2] else None
        if match and (inner or match[3]):
            top = {"output": "lm_head", "token_embd": "model.embed_tokens"}.get(match[3] or "", "")
            found.setdefault(top or f"model.layers.{match[1]}.{inner}", {})[match[4]] = name
        else:
            refusals.append(Refusal(f"`{name}` is no tensor whose module is known"))
    if architecture in _ROTATED and any(m.endswith((".q_proj", ".k_proj")) for m in found):
        orders, doubt = _orders(base)
        refusals += doubt
    parts = []
    for module, halves in found.items():
        part = _part(checkpoint, module, halves, alpha, orders.get(module.rpartition(".")[2]))
        if isinstance(part, Part):
            parts.append(part)
        else:
            refusals.append(part)
    path = checkpoint.weights
    sources = origins(path, checkpoint.tensors) if path is not None else {}
    fields: dict[str, object] = {"task_type": "CAUSAL_LM"}
    return {"": plan(Material(tuple(parts), sources, fields, refusals=tuple(refusals), tool=_TOOL), base)}


def _plain(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return None


def _part(
    checkpoint: Checkpoint, module: str, halves: Mapping[str, str], alpha: float | None, order: tuple[int, int] | None
) -> Part | Refusal:
    if halves.keys() != {"a", "b"}:
        return Refusal(f"`{module}` has only {listed(halves.values())}")
    first, second = (checkpoint.tensors[halves[h]].shape for h in "ab")
    if len(first) != 2 or len(second) != 2:
        return Refusal(f"`{module}` has halves of the shapes {list(first)} and {list(second)}: stacked experts are not converted")
    if module == "model.embed_tokens":
        # (vocabulary, r) and (width, r): ggml looks rows up.
        if first[1] != second[1]:
            return Refusal(f"`{module}` has halves of the shapes {list(first)} and {list(second)}, which do not fit each other")
        turned = {
            "lora_embedding_A": Piece(halves["a"], (permute(1, 0),), "ggml stores (vocabulary, r)"),
            "lora_embedding_B": Piece(halves["b"]),
        }
        return Part(module, second[1], second[1] if alpha is None else alpha, turned)
    if first[0] != second[1]:
        return Refusal(f"`{module}` has halves of the shapes {list(first)} and {list(second)}, which do not fit each other")
    moves: tuple[Transform, ...] = ()
    if order is not None:
        heads, rows = order[0], second[0]
        if rows != order[0] * order[1]:
            return Refusal(
                f"`{halves['b']}` has {rows} rows, but the base's config says {heads} heads of {order[1]}", "the base it was trained on"
            )
        # The converter wrote rows (2, pair) of each head as (pair, 2).
        moves = (reshape(heads, rows // heads // 2, 2, first[0]), permute(0, 2, 1, 3), reshape(rows, first[0]))
    tensors = {
        "lora_A.weight": Piece(halves["a"]),
        "lora_B.weight": Piece(halves["b"], moves, "rows in transformers' order" if moves else ""),
    }
    return Part(module, first[0], first[0] if alpha is None else alpha, tensors)


def _orders(base: BaseModel | None) -> tuple[dict[str, tuple[int, int]], list[Refusal]]:
    config = base.config if base is not None else {}
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    pairs = config.get("num_key_value_heads") or heads
    width = config.get("head_dim")
    if not width and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        width = hidden // heads
    if not all(isinstance(n, int) and n > 0 for n in (heads, pairs, width)) or int(str(width)) % 2:
        return {}, [Refusal("llama.cpp's converter has moved the rows of q and k, head by head", "the base's `config.json` (`--base`)")]
    return {"q_proj": (int(str(heads)), int(str(width))), "k_proj": (int(str(pairs)), int(str(width)))}, []
