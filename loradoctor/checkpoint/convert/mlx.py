"""mlx-lm's adapters: both halves transposed, the factor itself in the config, the model's names.

`lora_a` is (in, r) and `lora_b` (r, out), `scale` multiplies their product (mlx_lm/tuner/lora.py, LoRALinear.__call__); DoRA's
`m` is the norm of each output row, as PEFT's (dora.py). An embedding has `lora_a` (vocabulary, r) and `lora_b` (r, width).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from loradoctor.checkpoint.adapter_config import number
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.convert.base_model import BaseModel
from loradoctor.checkpoint.convert.parts import Material, Part, Piece, alpha_for, origins, plan, stated_alpha
from loradoctor.checkpoint.wording import listed
from loradoctor.repair.plan import TRANSPOSE, Plan, Refusal

_LEAVES = frozenset({"lora_a", "lora_b", "m"})
_SHARED = re.compile(r"(model\.layers\.\d+\.(self_attn\.(q|k|v|o|qkv)_proj|mlp\.(gate|up|down|gate_up)_proj)|model\.embed_tokens|lm_head)")
"""Modules that mlx-lm and transformers call alike and compute alike; others are renamed, fused or split on loading."""
_EMBEDDINGS = ("embed_tokens", "wte", "tok_embeddings", "word_embeddings")
_TOOL = "mlx-lm's tensor"


def convert(checkpoint: Checkpoint, bases: Mapping[str, BaseModel]) -> dict[str, Plan]:
    """An adapter directory of mlx-lm."""
    base = bases.get("")
    raw = dict(checkpoint.config.raw) if checkpoint.config is not None else {}
    if checkpoint.weights is None:
        return {"": plan(Material((), {}, refusals=(Refusal("there are no weights"),), tool=_TOOL))}
    refusals = []
    parameters = raw.get("lora_parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    scale = number(parameters.get("scale"))
    if scale is None and raw.get("peft_type") is None:
        refusals.append(
            Refusal("the config has no `lora_parameters.scale`", "the factor that the training used (mlx-lm's default is 20.0)")
        )
    if raw.get("fine_tune_type") == "full":
        refusals.append(Refusal("`fine_tune_type` is `full`: these are whole weights of the model, no adapter"))
    strange = [n for n in checkpoint.tensors if n.rpartition(".")[2] not in _LEAVES]
    if strange:
        refusals.append(Refusal(f"{listed(strange)} are no tensors that mlx-lm's LoRA has"))
    parts: list[Part] = []
    for module, leaves in _modules(checkpoint).items():
        found = _part(checkpoint, module, leaves, scale if scale is not None or raw.get("peft_type") else 1.0)
        if isinstance(found, Part):
            parts.append(found)
        else:
            refusals.append(found)
    unknown = [p.module for p in parts if not _SHARED.fullmatch(p.module)]
    if unknown and (base is None or not base.modules):
        refusals.append(Refusal(f"transformers may call {listed(unknown)} otherwise than mlx-lm", "the base model's weights (`--base`)"))
    named = raw.get("model")
    fields: dict[str, object] = {
        "task_type": raw.get("task_type") or "CAUSAL_LM",
        "base_model_name_or_path": named if isinstance(named, str) else None,
        "lora_dropout": number(parameters.get("dropout", raw.get("lora_dropout"))) or 0.0,
        "use_dora": any("m" in leaves for leaves in _modules(checkpoint).values()),
    }
    material = Material(
        tuple(parts),
        origins(checkpoint.weights, checkpoint.tensors),
        fields,
        raw,
        notes=_notes(fields["base_model_name_or_path"]),
        refusals=tuple(refusals),
        tool=_TOOL,
    )
    return {"": plan(material, base)}


def _modules(checkpoint: Checkpoint) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name in checkpoint.tensors:
        module, _, leaf = name.rpartition(".")
        if leaf in _LEAVES:
            found.setdefault(module, set()).add(leaf)
    return found


def _part(checkpoint: Checkpoint, module: str, leaves: set[str], scale: float | None) -> Part | Refusal:
    """One module; without ``scale`` the factor is what PEFT's config beside the tensors says."""
    if not {"lora_a", "lora_b"} <= leaves:
        return Refusal(f"`{module}` has only {listed(sorted(leaves))}")
    first, second = (checkpoint.tensors[f"{module}.lora_{half}"].shape for half in "ab")
    if len(first) != 2 or len(second) != 2 or first[1] != second[0]:
        # LoRASwitchLinear: (experts, r, in) and (experts, out, r), one adapter per expert.
        return Refusal(
            f"`{module}` has tensors of the shapes {list(first)} and {list(second)}: an adapter on stacked experts is not PEFT's"
        )
    rank = first[1]
    alpha = stated_alpha(checkpoint, module, rank) if scale is None else alpha_for(scale, rank)
    if alpha is None:
        said = "PEFT's config beside the tensors does not say alpha for" if scale is None else f"no alpha gives the factor {scale} at"
        return Refusal(f"{said} rank {rank}")
    embedding = module.rpartition(".")[2] in _EMBEDDINGS
    if embedding and "m" in leaves:
        return Refusal(f"`{module}` is an embedding with DoRA, whose magnitude mlx-lm takes along another axis than PEFT")
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    tensors = {
        names[0]: Piece(f"{module}.lora_a", (TRANSPOSE,), "mlx-lm stores (in, r), PEFT (r, in)"),
        names[1]: Piece(f"{module}.lora_b", (TRANSPOSE,), "mlx-lm stores (r, out), PEFT (out, r)"),
    }
    if "m" in leaves:
        tensors["lora_magnitude_vector"] = Piece(f"{module}.m", (), "the magnitude of DoRA")
    return Part(module, rank, alpha, tensors)


def _notes(named: object) -> tuple[str, ...]:
    if isinstance(named, str) and (named.startswith("mlx-community/") or re.search(r"-[2-8]-?bit", named)):
        return (
            f"`{named}` is a copy for MLX that transformers cannot load: set `base_model_name_or_path` to the model it was made from",
            "a quantized base is not exactly the one that the copy was made from",
        )
    return ()
