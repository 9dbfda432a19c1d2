"""ollama, read at v0.33.0-rc2: the import of safetensors adapters (`convert/`), run by a llama.cpp server (`--lora`)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loradoctor.checkpoint.adapter_config import number
from loradoctor.checkpoint.targets.facts import Facts
from loradoctor.checkpoint.targets.target import CONVERT_INIT, MERGE, Reaction, Target, Trace, gets_wrong, refuses
from loradoctor.checkpoint.targets.ways_out import without_alpha_pattern, without_rslora
from loradoctor.checkpoint.wording import counted, listed, verb

_CONVERT = "convert/convert.go, ConvertAdapter"
_PARAMETERS = "convert/convert.go, AdapterParameters"
_READER = "convert/reader.go, parseTensors"
_LLAMA = "convert/convert_llama_adapter.go, llamaAdapter"
_NAMES = "convert/convert_llama_adapter.go, llamaAdapter.Replacements"
_GGUF = "convert it with llama.cpp's `convert_lora_to_gguf.py` and name the `.gguf` in `ADAPTER`"
_KNOWN = re.compile(r"model\.layers\.\d+\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)")
_LLAMA_LIKE = frozenset({"llama", "mistral", "mixtral"})
"""Model types whose GGUF architecture is `llama`."""
_OTHERS = frozenset(
    """
bert bloom cohere cohere2 deepseek_v2 deepseek_v3 falcon gemma gemma3 gemma3_text gemma4 glm glm4 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_oss
gptj granite granitemoe internlm2 mpt nemotron olmo olmo2 opt phi phi3 phimoe qwen2 qwen2_moe qwen2_vl qwen2_5_vl qwen3 qwen3_moe qwen3_vl
smollm3 stablelm starcoder2 t5
""".split()
)
"""Model types with a GGUF architecture of their own, which the import of adapters does not know."""


def _alpha(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    """Go unmarshals `lora_alpha` into an unsigned integer."""
    alpha = facts.get("lora_alpha")
    if isinstance(alpha, float) or (isinstance(alpha, int) and alpha < 0):
        whole = isinstance(alpha, float) and alpha.is_integer() and alpha >= 0
        way_out = f"write it as {int(alpha)}" if whole else _GGUF
        yield "alpha", Trace(f"`lora_alpha` is written as `{alpha}`, not as an integer", "lora_alpha"), refuses(
            "`json: cannot unmarshal number` into a uint32", way_out, _PARAMETERS)  # fmt: skip


def _mlx_scale(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    parameters = facts.get("lora_parameters")
    if not facts.mlx or not isinstance(parameters, dict):
        return
    scale, alpha = number(parameters.get("scale")), number(parameters.get("alpha"))
    if scale is not None and scale != 1 and not alpha:
        why = "only `lora_parameters.alpha` is written; without one the halves are multiplied by 1"
        way_out = "add `alpha` = scale x rank to `lora_parameters`, or fuse with mlx-lm"
        yield "scale", Trace(f"`scale` is {scale:g}", "lora_parameters"), gets_wrong("scales by 1", why, way_out, _PARAMETERS)


def _architecture(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    kind = (facts.base_config or {}).get("model_type")
    if isinstance(kind, str) and kind in _OTHERS:
        yield "architecture", Trace(f"its base is a {kind} model", "base_model_name_or_path"), refuses(
            "`unsupported architecture`: adapters are imported for llama and gemma2 only", _GGUF, _CONVERT)  # fmt: skip


def _rotary(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    """The import permutes the flat data of q's and k's `lora_a`; llama's rotary order asks for the rows of `lora_b`."""
    kind = (facts.base_config or {}).get("model_type")
    if kind not in _LLAMA_LIKE if kind is not None else "gemma" in str(facts.get("base_model_name_or_path")).lower():
        return
    owners = [a.module for a in facts.adapted] or [k.module for k in facts.keys("lora_a")]
    names = tuple(m for m in owners if m.endswith((".self_attn.q_proj", ".self_attn.k_proj")))
    if names:
        says = f"{counted(len(names), 'module')} {verb(len(names), 'is', 'are')} `q_proj` or `k_proj` ({listed(names, 1)})"
        if kind is None:
            says += ", should the base be a Llama or Mistral"
        why = "the elements of `lora_a` are mixed and the rows of `lora_b` stay in the order that the converted base has not"
        yield "rotary-order", Trace(says, "target_modules", names=names), gets_wrong(
            "puts the wrong half into rotary order", why, _GGUF, f"{_LLAMA}.repack")  # fmt: skip


def _wide(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    known = [a for a in facts.adapted if _KNOWN.fullmatch(a.module)]
    names = tuple(a.module for a in known if (len(a.a) == 2 and a.a[0] > a.a[1]) or (len(a.b) == 2 and a.b[0] < a.b[1]))
    if names:
        trace = Trace(f"the rank of {counted(len(names), 'module')} is larger than its width ({listed(names, 1)})", "r", names=names)
        yield (
            "rank",
            trace,
            gets_wrong("transposes halves", "which way round they are is guessed from their shape", _GGUF, f"{_LLAMA}.Tensors"),
        )


def _modules(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    embeddings = {k.module for k in facts.keys("lora_embedding_A", "lora_embedding_B")}
    names = tuple(
        a.module for a in facts.adapted if not _KNOWN.fullmatch(a.module) and a.module not in facts.vision and a.module not in embeddings
    )
    if names and not facts.mlx:
        trace = Trace(f"{counted(len(names), 'module')} {verb(len(names), 'has', 'have')} no name in GGUF that it knows ({listed(names, 2)})",
                      "target_modules", names=names)  # fmt: skip
        yield "module-not-served", trace, refuses("`does not exist in base model` when the model is run", _GGUF, _NAMES)


def _at_run(what: str, way_out: str = MERGE) -> Reaction:
    return refuses(f"the import says nothing, and the model does not start: {what}", way_out, _NAMES)


_SUFFIX = "`has unexpected suffix`"

TARGET = Target(
    "ollama",
    "ollama",
    "0.33.0-rc2",
    {
        "foreign-names": _at_run(_SUFFIX, "convert it to PEFT's format first"),
        "method": _at_run(f"{_SUFFIX}; it knows LoRA only"),
        "pickle": refuses("`unknown tensor format`: it looks for `*.safetensors`", "save it with `safe_serialization=True`", _READER),
        "dora": _at_run(_SUFFIX),
        "rslora": gets_wrong("scales by alpha / r and not by alpha / √r", "only `lora_alpha` is written: the adapter acts with a "
                             "fraction of its strength", without_rslora, _PARAMETERS),
        "alpha-pattern": gets_wrong("scales every module by `lora_alpha` / its rank", "`alpha_pattern` is not written",
                                    without_alpha_pattern("rank"), _PARAMETERS),
        "bias": _at_run(_SUFFIX),
        "lora-bias": _at_run(_SUFFIX),
        "modules-to-save": _at_run(_SUFFIX),
        "input-embedding": _at_run(_SUFFIX),
        "token-rows": _at_run(_SUFFIX),
        "rewriting-init": gets_wrong("applies it to the unchanged base", "`init_lora_weights` is not read", CONVERT_INIT, _PARAMETERS),
        "alora": gets_wrong("lets it act on every token", "`alora_invocation_tokens` is not written", _GGUF, _PARAMETERS),
        "layer-replication": _at_run("`does not exist in base model`", "export the replicated model as a whole"),
        "bdlora": _at_run("`has incorrect shape`"),
        "qalora": _at_run("`has incorrect shape`"),
        "further-tensors": _at_run(_SUFFIX),
        "adapter-name": _at_run(_SUFFIX, "take the adapter's name out of the keys"),
        "wrapper": _at_run("`does not exist in base model`", "take the wrapper's name out of the keys"),
        "vision": _at_run("`does not exist in base model`"),
    },
    own=(_alpha, _mlx_scale, _architecture, _rotary, _wide, _modules),
    reads_mlx=True,
)  # fmt: skip
