"""Poly, Lily, Shadow and X-LoRA: what is added depends on the input, so nothing can be merged.

Shapes: peft/tuners/{poly,lily}/layer.py, shadow/layers.py, xlora/classifier.py.
"""

from __future__ import annotations

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.methods.dims import IN, OUT, R, name
from loradoctor.checkpoint.methods.table import Layout, Parameter, Part, Roles, Table, each, part

_ROUTED = "what it adds depends on the input"
_SPLITS, _SKILLS = name("splits"), name("skills")

POLY = Table(
    given=(
        Parameter("r", "r", 8),
        Parameter("tasks", "n_tasks", 1),
        Parameter("skills", "n_skills", 4),
        Parameter("splits", "n_splits", 1),
    ),
    layouts=(
        Layout(
            {
                "poly_lora_A": part(_SPLITS, _SKILLS, IN / _SPLITS, R),
                "poly_lora_B": part(_SPLITS, _SKILLS, R, OUT / _SPLITS),
                "poly_router.module_logits": part(name("tasks"), _SPLITS * _SKILLS),
            }
        ),
    ),
    tails={"poly_router": "module_logits"},
    merges=_ROUTED,
)

LILY = Table(
    given=(Parameter("r", "r", 32), Parameter("n", "num_B", 2)),
    layouts=(Layout(each(lily_A=part(R, IN), lily_B=part(name("n") * R, OUT), lily_router=part(name("n"), R))),),
    merges=_ROUTED,
)

_HIDDEN, _INNER = name("hidden"), name("update_hidden_size")


def _shadow_update(role: str) -> dict[str, Part]:
    return {
        f"{role}.0": part(_INNER, _HIDDEN),
        f"{role}.0.bias": part(_INNER),
        f"{role}.2": part(_HIDDEN, _INNER),
        f"{role}.2.bias": part(_HIDDEN),
    }


SHADOW = Table(
    given=(Parameter("r", "r", 8), Parameter("update_hidden_size", "update_hidden_size")),
    layouts=(
        Layout(
            {
                "shadow_down": part(R, _HIDDEN),
                "shadow_up": part(_HIDDEN, R),
                **_shadow_update("shadow_update_gate"),
                **_shadow_update("shadow_update_transform"),
            }
        ),
    ),
    free=("shadow_backbone", "shadow_projection"),
    tails={"shadow_update": r"\d+", "shadow_backbone": ".*", "shadow_projection": ".*"},
    merges=_ROUTED,
)


def _xlora(config: AdapterConfig, _: Roles) -> dict[str, Part]:
    """The classifier: `xlora_depth` linear layers, with an activation and perhaps dropout between them."""
    depth = config.get("xlora_depth", 1)
    depth = depth if isinstance(depth, int) and not isinstance(depth, bool) and 0 < depth < 1000 else 1
    step = 3 if config.get("xlora_dropout_p", 0.2) else 2
    adapters = config.get("adapters")
    several = name("adapters") * name("layers") if config.flag("layerwise_scalings") else name("adapters")
    count = len(adapters) if isinstance(adapters, dict) and not config.flag("layerwise_scalings") else several
    parts: dict[str, Part] = {}
    for index in range(depth):
        width = name("hidden_size") if index == 0 else name("xlora_size")
        rows = count if index == depth - 1 else name("xlora_size")
        parts[f"internal_xlora_classifier.layers.{index * step}"] = part(rows, width)
        parts[f"internal_xlora_classifier.layers.{index * step}.bias"] = part(rows)
    return parts


XLORA = Table(
    given=(Parameter("hidden_size", "hidden_size"), Parameter("xlora_size", "xlora_size", 2048)),
    shared_for=_xlora,
    tails={"internal_xlora_classifier": r"layers\.\d+"},
    merges=_ROUTED,
)
