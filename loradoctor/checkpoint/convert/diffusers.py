"""diffusers' LoRA files: an adapter per model of the pipeline, the config in the header or nowhere.

Since 0.35 `lora_adapter_metadata` holds every adapter's PEFT config, its fields prefixed with the model's name
(diffusers/loaders/lora_base.py). Without it diffusers takes ranks from the shapes and alpha from `alpha` tensors, else the rank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from loradoctor.checkpoint.adapter_config import number
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.convert.base_model import BaseModel
from loradoctor.checkpoint.convert.parts import Material, Part, Piece, origins, plan, stated_alpha
from loradoctor.checkpoint.convert.scalar import number as value_of
from loradoctor.checkpoint.target_modules import pattern_key
from loradoctor.checkpoint.wording import listed
from loradoctor.repair.plan import Plan, Refusal

METADATA = "lora_adapter_metadata"
_COMPONENT = re.compile(r"(unet|transformer(?:_\d)?|prior|text_encoder(?:_\d)?|controlnet|vae)\.")
_LEAVES = (
    (re.compile(r"\.lora_([AB])\.weight$"), ""),
    (re.compile(r"\.lora(?:_linear_layer)?\.(down|up)\.weight$"), ""),
    (re.compile(r"\.to_(q|k|v|out)_lora\.(down|up)\.weight$"), "processor"),
)
_ROLE = {"A": "lora_A.weight", "B": "lora_B.weight", "down": "lora_A.weight", "up": "lora_B.weight"}
_OLD_ENCODER = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}
_LEVEL = "text_model."
_TOOL = "diffusers' tensor"


def convert(checkpoint: Checkpoint, bases: Mapping[str, BaseModel]) -> dict[str, Plan]:
    """One adapter per model of the pipeline; the directory itself when there is only one."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    strange = []
    for name in checkpoint.tensors:
        cut = _cut(name)
        if cut is None:
            strange.append(name)
        else:
            found.setdefault(cut[0], {}).setdefault(cut[1], {})[cut[2]] = name
    plans = {c: _converted(checkpoint, c, modules, bases, strange) for c, modules in found.items()}
    if not plans:
        plans[""] = plan(Material((), {}, refusals=(Refusal(f"{listed(strange)} have no names of diffusers' LoRA"),), tool=_TOOL))
    return {"": next(iter(plans.values()))} if len(plans) == 1 else plans


def _cut(name: str) -> tuple[str, str, str] | None:
    """Component, module and PEFT's leaf of a tensor's name."""
    match = _COMPONENT.match(name)
    component = match[1] if match else "unet"
    rest = name[match.end() :] if match else name
    for suffix in (".alpha", ".lora_magnitude_vector.weight", ".lora_magnitude_vector", ".lora_B.bias"):
        if rest.endswith(suffix):
            module = re.sub(r"\.(lora_A|lora_linear_layer\.down|lora\.down)$", "", rest.removesuffix(suffix))
            return component, module.replace(".processor", ""), suffix[1:].removesuffix(".weight") if "magnitude" in suffix else suffix[1:]
    for pattern, kind in _LEAVES:
        if (leaf := pattern.search(rest)) is None:
            continue
        module = rest[: leaf.start()].replace(".processor", "")
        if not kind:
            return component, module, _ROLE[leaf[1]]
        inner = {"out": "to_out.0"}.get(leaf[1], f"to_{leaf[1]}")
        return component, f"{module}.{_OLD_ENCODER[leaf[1]] if component.startswith('text') else inner}", _ROLE[leaf[2]]
    return None


def _converted(
    checkpoint: Checkpoint, component: str, modules: Mapping[str, Mapping[str, str]], bases: Mapping[str, BaseModel], strange: list[str]
) -> Plan:
    refusals = [Refusal(f"{listed(strange)} have no names of diffusers' LoRA")] if strange else []
    stated = _stated(checkpoint, component)
    base = bases.get(component) or (bases.get("") if set(bases) == {""} else None)
    modules = _as_in(base, modules)
    notes: tuple[str, ...] = ()
    parts: list[Part] = []
    for module, leaves in modules.items():
        part = _part(checkpoint, module, leaves, stated)
        parts += [part] if isinstance(part, Part) else []
        refusals += [part] if isinstance(part, Refusal) else []
    old = dict(checkpoint.config.raw) if checkpoint.config is not None else {}
    if not stated and not old and not any("alpha" in leaves for leaves in modules.values()):
        notes = (
            "the file says no alpha: diffusers then applies the factor 1, and so does the result",
            "if the training used another alpha than the rank, it was lost when the file was saved",
        )
    # With the configuration at hand, nothing of it is guessed anew.
    fields = {k: v for k, v in stated.items() if k != "inference_mode"}
    fields |= {
        "use_dora": any("lora_magnitude_vector" in leaves for leaves in modules.values()),
        "lora_bias": any("lora_B.bias" in leaves for leaves in modules.values()),
    }
    sources = {}
    if checkpoint.weights is not None:
        sources = origins(checkpoint.weights, {n: checkpoint.tensors[n] for leaves in modules.values() for n in leaves.values()})
    material = Material(tuple(parts), sources, fields, old, notes=notes, refusals=tuple(refusals), tool=_TOOL)
    return plan(material, base)


def _as_in(base: BaseModel | None, modules: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, str]]:
    """The modules under the base's names: transformers 5 took the level `text_model` out of CLIP's text models."""
    known = base.modules.keys() if base is not None else set()
    if known and not modules.keys() & known:
        for other in ({m.removeprefix(_LEVEL): m for m in modules}, {f"{_LEVEL}{m}": m for m in modules}):
            if other.keys() <= known:
                return {new: modules[old] for new, old in other.items()}
    return modules


def _stated(checkpoint: Checkpoint, component: str) -> dict[str, object]:
    """The PEFT config that the header gives for one model, empty when there is none."""
    try:
        raw = json.loads(checkpoint.metadata.get(METADATA, ""))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(raw, dict):
        return {}
    own = {k.removeprefix(f"{component}."): v for k, v in raw.items() if k.startswith(f"{component}.")}
    found = own or ({} if any("." in k for k in raw) else raw)
    return found if isinstance(found.get("r"), int) else {}


def _part(checkpoint: Checkpoint, module: str, leaves: Mapping[str, str], stated: Mapping[str, object]) -> Part | Refusal:
    if not {"lora_A.weight", "lora_B.weight"} <= leaves.keys():
        return Refusal(f"`{module}` has only {listed(sorted(leaves))}")
    first, second = (checkpoint.tensors[leaves[f"lora_{half}.weight"]].shape for half in "AB")
    rank = first[0]
    if second[1:2] != (rank,):
        return Refusal(f"`{module}` has halves of the shapes {list(first)} and {list(second)}, which do not fit each other")
    alpha: float | None = stated_alpha(checkpoint, module, rank)
    if alpha is None and not stated and "alpha" not in leaves:
        alpha = rank
    elif stated:
        patterns = stated.get("alpha_pattern")
        patterns = patterns if isinstance(patterns, dict) else {}
        alpha = number(patterns.get(pattern_key(patterns, module) or "", stated.get("lora_alpha")))
    elif "alpha" in leaves and checkpoint.weights is not None:
        try:
            alpha = value_of(checkpoint.weights, checkpoint.tensors[leaves["alpha"]])
        except OSError:
            alpha = None
    if alpha is None:
        return Refusal(f"the alpha of `{module}` cannot be read")
    return Part(module, rank, alpha, {leaf: Piece(name) for leaf, name in leaves.items() if leaf != "alpha"})
