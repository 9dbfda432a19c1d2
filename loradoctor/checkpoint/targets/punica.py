"""What TGI and LoRAX have in common: the same code packs one layer type after another for their kernels.

TGI's `server/text_generation_server/adapters/lora.py` came from LoRAX's `server/lorax_server/adapters/lora.py`; where they
differ their own files say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from loradoctor.checkpoint.targets.facts import Facts
from loradoctor.checkpoint.targets.target import CONVERT_INIT, MERGE, Reaction, Trace, gets_wrong, refuses
from loradoctor.checkpoint.targets.ways_out import without_alpha_pattern
from loradoctor.checkpoint.wording import counted, listed, verb

_SMALLEST, _BLOCK = 8, 16
"""MIN_SGMV_RANK and SGMV_BLOCK_SIZE: the kernels take 8 and multiples of 16."""


def padded(rank: int) -> int:
    """The rank that the kernels get, on one GPU: at least 8, beyond that a multiple of 16."""
    return _SMALLEST if rank <= _SMALLEST else -(-rank // _BLOCK) * _BLOCK


def reactions(names: str, weights: str) -> Mapping[str, Reaction]:
    """The table that both share; ``names`` and ``weights`` are where the names are matched and the weights prepared."""

    def left_out(what: str, why: str) -> Reaction:
        return gets_wrong(f"leaves out {what}", why, MERGE, names)

    unmatched = "only `….lora_A.weight` and `….lora_B.weight` are looked up, by whole names; the rest is not even listed as unused"
    nothing = "no name matches, and the base model answers"
    return {
        "format": refuses("PEFT's own config class is asked, which needs `peft_type`", "convert it to PEFT's format first", names),
        "foreign-names": gets_wrong("serves the base model", nothing, "convert it to PEFT's format first", names),
        "method": refuses("it serves LoRA only: the config has no `r` and `lora_alpha`, or no tensor matches", MERGE, names),
        "pickle": refuses("`No adapter weights found`: only `.safetensors` is read from a local directory",
                          "save it with `safe_serialization=True`", weights),
        "dora": left_out("the magnitudes", unmatched),
        "alpha-pattern": gets_wrong("scales every module by `lora_alpha` / `r`", "`alpha_pattern` is not read",
                                    without_alpha_pattern(), weights),
        "bias": left_out("the biases", unmatched),
        "lora-bias": left_out("the biases of the halves", unmatched),
        "modules-to-save": left_out("modules that were saved whole", unmatched),
        "input-embedding": left_out("the halves of the embedding", unmatched),
        "token-rows": left_out("trained rows of the embedding", unmatched),
        "rewriting-init": gets_wrong("applies it to the unchanged base", "`init_lora_weights` is not read", CONVERT_INIT, names),
        "alora": gets_wrong("lets it act on every token", "`alora_invocation_tokens` is not read", MERGE, names),
        "layer-replication": gets_wrong("leaves out the repeated layers", "`layer_replication` is not read",
                                        "export the replicated model as a whole", names),
        "bdlora": gets_wrong("does not read `use_bdlora`", "block-diagonal halves are taken for whole ones", MERGE, names),
        "qalora": gets_wrong("does not read `use_qalora`", "its halves are taken for those of plain LoRA", MERGE, names),
        "further-tensors": left_out("these tensors", unmatched),
        "fused-experts": left_out("the experts", unmatched),
        "adapter-name": gets_wrong("serves the base model", nothing, "take the adapter's name out of the keys", names),
        "wrapper": gets_wrong("serves the base model", nothing, "take the wrapper's name out of the keys", names),
        "prefix": gets_wrong("serves the base model", nothing, "let every key start with one `base_model.model.`", names),
        "vision": left_out("what is not the language model's", unmatched),
    }  # fmt: skip


Own = Callable[[Facts], Iterator[tuple[str, Trace, Reaction]]]


def ranks(weights: str) -> Own:
    """Ranks: one per layer type, one for the scaling, and padded ranks that are written back into the config."""

    def look(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
        uneven = _uneven(facts)
        others = facts.other_ranks
        if uneven:
            trace = Trace(f"the layers of {listed(uneven)} differ in rank", "rank_pattern", names=uneven)
            yield "rank-pattern", trace, refuses("`torch.stack` of the layers of one type fails", MERGE, weights)
        elif others:
            says = f"{counted(len(others), 'module')} {verb(len(others), 'has', 'have')} another rank than `r` = {facts.rank}"
            trace = Trace(f"{says} ({listed(others, 2)})", "rank_pattern", names=others)
            way_out = f"multiply `lora_B` of these modules by `r` / their rank, or {MERGE}"
            yield (
                "rank-pattern",
                trace,
                gets_wrong("scales every module by `lora_alpha` / `r`", "their own rank is not used", way_out, weights),
            )
        elif padded(facts.rank) != facts.rank and len(facts.layers) > 1:
            rank = padded(facts.rank)
            trace = Trace(f"`r` is {facts.rank}, which is padded to {rank} and written back after the first module type", "r")
            why = f"all other module types are scaled by {facts.rank}/{rank} of what they should be"
            way_out = f"append zero rows and columns up to rank {rank}, set `r` to it and scale `lora_alpha` alike, or {MERGE}"
            yield "padded-rank", trace, gets_wrong("scales by the padded rank", why, way_out, weights)

    return look


def _uneven(facts: Facts) -> tuple[str, ...]:
    found: dict[str, set[int]] = {}
    for adapted in facts.adapted:
        if adapted.rank and adapted.module not in facts.vision:
            found.setdefault(adapted.short, set()).add(padded(adapted.rank))
    return tuple(short for short, sizes in found.items() if len(sizes) > 1)


def partial_types(weights: str) -> Own:
    """A module type that one layer lacks is dropped in all of them."""

    def look(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
        depth = facts.depth or max((max(indices) + 1 for indices in facts.layers.values()), default=0)
        partial = tuple(kind for kind, indices in facts.layers.items() if len(indices) < depth)
        if partial:
            says = f"not all of {depth} layers have halves for {listed(partial)}"
            trace = Trace(says, "layers_to_transform" if facts.get("layers_to_transform") is not None else "target_modules", names=partial)
            why = "a type without a tensor for one layer is skipped in every layer"
            way_out = f"add zero halves for the missing layers, or {MERGE}"
            yield "partial-layers", trace, gets_wrong("drops module types altogether", why, way_out, weights)

    return look
