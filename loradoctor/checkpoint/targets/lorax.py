"""LoRAX, read at a7394ba3 (after 0.12.1, May 2026)."""

from __future__ import annotations

from loradoctor.checkpoint.targets import punica
from loradoctor.checkpoint.targets.target import Target

_NAMES = "server/lorax_server/adapters/lora.py, LoraConfig.map_weights_for_model"
_WEIGHTS = "server/lorax_server/adapters/lora.py, LoraWeights.load"

TARGET = Target(
    "lorax",
    "LoRAX",
    "0.12.1",
    punica.reactions(_NAMES, _WEIGHTS),
    own=(punica.ranks(_WEIGHTS), punica.partial_types(_WEIGHTS)),
)
