"""Flux under its original names onto diffusers' modules: what one layer computes there, several compute here.

`img_attn.qkv` is q, k and v on top of each other, `linear1` of a single block these and the first layer of the MLP. The update of
such a stack is cut by its rows: every module gets its rows of `lora_up`, and all share `lora_down`. Names and order as in
diffusers/loaders/lora_conversion_utils.py (`_convert_kohya_flux_lora_to_diffusers`), which multiplies alpha into the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from loradoctor.checkpoint.convert.base_model import BaseModel

_DOUBLE: Mapping[str, tuple[str, ...]] = {
    "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn_proj": ("attn.to_out.0",),
    "txt_attn_proj": ("attn.to_add_out",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
    "img_mod_lin": ("norm1.linear",),
    "txt_mod_lin": ("norm1_context.linear",),
}
_SINGLE: Mapping[str, tuple[str, ...]] = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation_lin": ("norm.linear",),
}
_NAME = re.compile(r"(double|single)_blocks_(\d+)_(\w+)")


def resolve(names: Iterable[str], bases: Mapping[str, BaseModel]) -> tuple[str, dict[str, tuple[str, ...]]] | None:
    """The component and, for every written name, the modules that its rows belong to; None unless the base has them all."""
    found = {name: _modules(name.replace(".", "_")) for name in names}
    for component in ("transformer", ""):
        base = bases.get(component)
        if base is not None and found and all(modules and base.modules.keys() >= set(modules) for modules in found.values()):
            return component, found
    return None


def _modules(name: str) -> tuple[str, ...]:
    match = _NAME.fullmatch(name)
    if match is None:
        return ()
    double = match[1] == "double"
    block = f"{'' if double else 'single_'}transformer_blocks.{match[2]}"
    return tuple(f"{block}.{m}" for m in (_DOUBLE if double else _SINGLE).get(match[3], ()))
