"""Text Generation Inference, read at db931fcf (after 3.3.7, January 2026; the repository is in maintenance)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loradoctor.checkpoint.targets import punica
from loradoctor.checkpoint.targets.facts import Facts
from loradoctor.checkpoint.targets.target import MERGE, Reaction, Target, Trace, gets_wrong
from loradoctor.checkpoint.wording import counted, listed, verb

_NAMES = "server/text_generation_server/adapters/lora.py, LoraConfig.map_weights_for_model"
_WEIGHTS = "server/text_generation_server/adapters/lora.py, LoraWeights.prepare_weights"
_LOOKUP = "server/text_generation_server/utils/adapter.py, build_layer_weight_lookup"
_SERVED = re.compile(r"model\.layers\.\d+\.(?:self_attn\.(?:q|k|v|qkv|o)_proj|mlp\.(?:gate|up|down)_proj|mlp\.c_(?:fc|proj))")


def _not_served(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    """Modules beyond the table: they are looked up under the names of a Llama-like text model only."""
    embeddings = {k.module for k in facts.keys("lora_embedding_A", "lora_embedding_B")}
    names = tuple(
        a.module for a in facts.adapted if not _SERVED.fullmatch(a.module) and a.module not in {*facts.vision, *facts.fused, *embeddings}
    )
    if names:
        trace = Trace(f"{counted(len(names), 'module')} {verb(len(names), 'is', 'are')} not on its list ({listed(names, 2)})", "target_modules",
                      names=names)  # fmt: skip
        why = "it knows `model.layers.N.` with `self_attn.{q,k,v,qkv,o}_proj`, `mlp.{gate,up,down}_proj`, `mlp.c_{fc,proj}`"
        yield "module-not-served", trace, gets_wrong("leaves out these modules", why, MERGE, _LOOKUP)


TARGET = Target(
    "tgi",
    "TGI",
    "3.3.7",
    punica.reactions(_NAMES, _WEIGHTS),
    own=(punica.ranks(_WEIGHTS), punica.partial_types(_WEIGHTS), _not_served),
)
