"""TensorRT-LLM, read at 30e6fb55 (`tensorrt_llm/lora_manager.py`, `lora_helper.py`)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loradoctor.checkpoint.targets.facts import Facts
from loradoctor.checkpoint.targets.target import CONVERT_INIT, MERGE, Reaction, Target, Trace, gets_wrong, refuses
from loradoctor.checkpoint.targets.ways_out import without_alpha_pattern
from loradoctor.checkpoint.wording import counted, listed, verb

_NAMES = "tensorrt_llm/lora_manager.py, iterate_hf_lora"
_LOAD = "tensorrt_llm/lora_manager.py, LoraManager.load_from_hf"
_LOADER = "tensorrt_llm/lora_manager.py, HfLoraLoader.__init__"
_DEFAULT_RANK = 64
_WHOLE = frozenset({"base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"})
_EXPERT = re.compile(r"\.experts\.\d+\.")


def _rank(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    rank = facts.largest_rank
    if rank > _DEFAULT_RANK:
        trace = Trace(f"its rank is {rank}, and the default limit {_DEFAULT_RANK}", "r")
        way_out = f"raise it with `LoraConfig(max_lora_rank={rank})`, or `--max_lora_rank {rank}` when an engine is built"
        yield "rank", trace, refuses("caches are allocated for `max_lora_rank`", way_out, "tensorrt_llm/lora_helper.py, LoraConfig")


def _whole(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    """The two embeddings are read, under hard-coded names; any other whole module is an unsupported key."""
    names = tuple(k.name for k in facts.whole if k.name not in _WHOLE)
    if names:
        says = f"{counted(len(names), 'tensor')} of the base {verb(len(names), 'is', 'are')} in the file ({listed(names, 2)})"
        yield "modules-to-save", Trace(says, names[0], "weights", names), refuses(
            "a KeyError, `unsupported key … from HF LoRA weights`", MERGE, _NAMES)  # fmt: skip


def _expert_magnitudes(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    names = tuple(k.name for k in facts.keys("lora_magnitude_vector") if _EXPERT.search(k.name))
    if names:
        trace = Trace(f"{counted(len(names), 'expert')} {verb(len(names), 'has', 'have')} a DoRA magnitude", names[0], "weights", names)
        yield "dora", trace, gets_wrong("leaves out the magnitudes of experts", "DoRA of experts is not supported, and its "
                                        "own check for it looks for another key", MERGE, _LOAD)  # fmt: skip


def _unsupported(what: str) -> Reaction:
    return refuses(f"a KeyError, `unsupported key … from HF LoRA weights`: {what}", MERGE, _NAMES)


_SKIPPED = "keys with `lm_head` or `embed_tokens` that are no module of a layer are skipped without a word"

TARGET = Target(
    "tensorrt-llm",
    "TensorRT-LLM",
    "30e6fb55",
    {
        "format": refuses("it reads PEFT's names and config only", "convert it to PEFT's format first", _NAMES),
        "foreign-names": refuses("a KeyError, `unsupported key … from HF LoRA weights`", "convert it to PEFT's format first", _NAMES),
        "method": _unsupported("it serves LoRA only"),
        "alpha-pattern": gets_wrong("scales every module by `lora_alpha` / its rank", "`alpha_pattern` is not read",
                                    without_alpha_pattern("rank"), _LOAD),
        "bias": _unsupported("biases are not read"),
        "lora-bias": _unsupported("biases are not read"),
        "input-embedding": gets_wrong("leaves out the halves of the embedding", _SKIPPED, MERGE, _NAMES),
        "output-embedding": gets_wrong("leaves out the halves of the output embedding", _SKIPPED, MERGE, _NAMES),
        "token-rows": gets_wrong("leaves out trained rows of the embedding", _SKIPPED, MERGE, _NAMES),
        "rewriting-init": gets_wrong("applies it to the unchanged base", "`init_lora_weights` is not read", CONVERT_INIT, _LOAD),
        "alora": gets_wrong("lets it act on every token", "`alora_invocation_tokens` is not read", MERGE, _LOAD),
        "layer-replication": gets_wrong("does not read `layer_replication`", "the base has fewer layers than the adapter",
                                        "export the replicated model as a whole", _LOAD),
        "bdlora": gets_wrong("does not read `use_bdlora`", "block-diagonal halves are taken for whole ones", MERGE, _LOAD),
        "qalora": gets_wrong("does not read `use_qalora`", "its halves are taken for those of plain LoRA", MERGE, _LOAD),
        "further-tensors": _unsupported("only `lora_A`, `lora_B` and magnitudes are read"),
        "fused-experts": refuses("an AssertionError, `hf_module experts is not in supported list`", MERGE, _NAMES),
        "adapter-name": refuses("a KeyError, `unsupported key … from HF LoRA weights`", "take the adapter's name out of the keys", _NAMES),
        "vision": gets_wrong("takes a module for that of the language model with the same layer number",
                             "tensors are sorted by layer number and the last names, whatever stands before", MERGE, _NAMES),
    },
    own=(_rank, _whole, _expert_magnitudes),
)  # fmt: skip
