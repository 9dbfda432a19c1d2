"""llama.cpp, read at 0c1e57098 (inside llama-cpp-python 0.3.36): `convert_lora_to_gguf.py` and `src/llama-adapter.*`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from loradoctor.checkpoint.targets.facts import Facts
from loradoctor.checkpoint.targets.target import CONVERT_INIT, MERGE, Reaction, Target, Trace, gets_wrong, refuses
from loradoctor.checkpoint.targets.ways_out import without_alpha_pattern, without_rslora
from loradoctor.checkpoint.wording import counted, listed, verb

_CONVERT = "convert_lora_to_gguf.py, LoraModel.get_tensors"
_MAIN = "convert_lora_to_gguf.py, main"
_SCALE = "src/llama-adapter.h, llama_adapter_lora_weight::get_scale"
_LOAD = "src/llama-adapter.cpp, llama_adapter_lora_init_impl"
_FILTER = "conversion/base.py, TextModel.filter_tensors"
_OUTPUTS = ("lm_head",)


def _rslora_way_out(facts: Facts) -> str:
    way_out = without_rslora(facts)
    if facts.alpha_without_rslora is None:
        return way_out
    return f"{way_out}; or run it with `--lora-scaled FILE:{math.sqrt(facts.largest_rank):.6g}`"


def _whole(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    """Norms are written and then skipped by the runtime; anything else stops the conversion."""
    norms = tuple(k.name for k in facts.whole if "_layernorm" in k.name or ".norm" in k.name)
    others = tuple(k.name for k in facts.whole if k.name not in norms)
    if others:
        says = f"{counted(len(others), 'tensor')} of the base {verb(len(others), 'is', 'are')} in the file ({listed(others, 2)})"
        yield "modules-to-save", Trace(says, others[0], "weights", others), refuses(
            "the conversion ends with `Unexpected name … Not a lora_A or lora_B tensor`", MERGE, _CONVERT)  # fmt: skip
    elif norms:
        says = f"{counted(len(norms), 'norm')} of the base {verb(len(norms), 'is', 'are')} in the file ({listed(norms, 2)})"
        yield "modules-to-save", Trace(says, norms[0], "weights", norms), gets_wrong(
            "leaves out trained norms", "they are converted, and the runtime skips them", MERGE, _LOAD)  # fmt: skip


def _tied_output(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    names = tuple(a.module for a in facts.adapted if a.short in _OUTPUTS)
    if names and (facts.base_config or {}).get("tie_word_embeddings") is True:
        trace = Trace("`lm_head` is adapted, and the base ties it to its input embedding", "target_modules", names=names)
        why = "there is no `output.weight` in the converted base: the conversion or the load stops"
        yield "tied-output", trace, refuses(why, MERGE, _LOAD)


def _base(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    """The converter reads the base's config, by the name that the adapter's config gives."""
    base = facts.get("base_model_name_or_path")
    gone = isinstance(base, str) and (base.startswith(("/", "./", "../", "~")) and not Path(base).expanduser().exists())
    if base and not gone:
        return
    says = f"the base that it names is not there: `{base}`" if base else "the config names no base"
    way_out = "give the converter the base's directory with `--base`, or its id with `--base-model-id`"
    yield "base-unknown", Trace(says, "base_model_name_or_path"), refuses("the converter needs the base's config", way_out, _MAIN)


def _unexpected(what: str) -> Reaction:
    return refuses(f"the conversion ends with `Unexpected name … Not a lora_A or lora_B tensor`: {what}", MERGE, _CONVERT)


_SHAPES = refuses("`has incorrect shape (hint: maybe wrong base model?)` when it is loaded", MERGE, _LOAD)

TARGET = Target(
    "llama.cpp",
    "llama.cpp",
    "0c1e57098",
    {
        "format": refuses("the converter reads PEFT's names and config only", "convert it to PEFT's format first", _CONVERT),
        "foreign-names": refuses("the conversion ends with `Unexpected name`", "convert it to PEFT's format first", _CONVERT),
        "method": _unexpected("only LoRA is converted"),
        "dora": _unexpected("magnitudes have no place in the format"),
        "rslora": gets_wrong("scales by alpha / r and not by alpha / √r", "`use_rslora` is not converted: the adapter acts with a "
                             "fraction of its strength", _rslora_way_out, _SCALE),
        "alpha-pattern": gets_wrong("scales every module by `lora_alpha` / its rank", "`alpha_pattern` is not converted",
                                    without_alpha_pattern("rank"), _SCALE),
        "bias": _unexpected("biases have no place in the format"),
        "lora-bias": _unexpected("biases have no place in the format"),
        "resized-embedding": _SHAPES,
        "token-rows": _unexpected("only whole halves are converted"),
        "rewriting-init": gets_wrong("applies it to the unchanged base", "`init_lora_weights` is not read", CONVERT_INIT, _MAIN),
        "layer-replication": refuses("`does not exist in base model` when it is loaded",
                                     "export the replicated model as a whole", _LOAD),
        "bdlora": _SHAPES,
        "qalora": _SHAPES,
        "further-tensors": _unexpected("only `lora_A` and `lora_B` are converted"),
        "fused-experts": refuses("the conversion ends with `Can not map tensor`", MERGE, _CONVERT),
        "adapter-name": refuses("the conversion ends with `Unexpected name`", "take the adapter's name out of the keys", _CONVERT),
        "wrapper": refuses("the conversion ends with `Can not map tensor`", "take the wrapper's name out of the keys", _CONVERT),
        "vision": gets_wrong("leaves out what is not the language model's", "the conversion filters these tensors without a word",
                             MERGE, _FILTER),
    },
    own=(_whole, _tied_output, _base),
)  # fmt: skip
