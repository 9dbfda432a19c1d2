"""vLLM, read in the wheel of 0.33.0 (`vllm/lora`, `vllm/config/lora.py`)."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.adapter_config import number
from loradoctor.checkpoint.targets.facts import Facts
from loradoctor.checkpoint.targets.target import CONVERT_INIT, MERGE, Reaction, Target, Trace, gets_wrong, refuses
from loradoctor.checkpoint.wording import listed

_HELPER = "vllm/lora/peft_helper.py, PEFTHelper._validate_features"
_LEGAL = "vllm/lora/peft_helper.py, PEFTHelper.validate_legal"
_NAMES = "vllm/lora/utils.py, parse_fine_tuned_lora_name"
_CHOICES = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes (vllm/config/lora.py, MaxLoRARanks)."""
_DEFAULT = 16
_REQUIRED = ("r", "lora_alpha", "target_modules")


def _rank(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    """What is compared are the numbers of the config, not the tensors."""
    patterns = facts.get("rank_pattern")
    listed_ranks = [v for v in patterns.values() if number(v) is not None] if isinstance(patterns, dict) else []
    rank = int(max([facts.rank, *listed_ranks]))
    if rank <= _DEFAULT:
        return
    flag = next((c for c in _CHOICES if c >= rank), None)
    way_out = f"serve it with `--max-lora-rank {flag}`" if flag else f"512 is the largest `--max-lora-rank`: {MERGE}"
    why = f"`LoRA rank {rank} is greater than max_lora_rank {_DEFAULT}` unless a flag allows more"
    yield "rank", Trace(f"its rank is {rank}, and the default limit {_DEFAULT}", "r"), refuses(why, way_out, _LEGAL)


def _required(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    missing = [f for f in _REQUIRED if f not in facts.raw]
    if missing:
        way_out = "write these fields into `adapter_config.json` as it was trained"
        yield (
            "missing-field",
            Trace(f"the config has no {listed(missing)}"),
            refuses("`Missing required configuration fields`", way_out, "vllm/lora/peft_helper.py, PEFTHelper.from_dict"),
        )


def _stops(what: str) -> Reaction:
    return refuses(what, MERGE, _HELPER)


TARGET = Target(
    "vllm",
    "vLLM",
    "0.33.0",
    {
        "format": refuses("it reads PEFT's names and config only", "convert it to PEFT's format first", _NAMES),
        "foreign-names": refuses("`… is unsupported LoRA weight`", "convert it to PEFT's format first", _NAMES),
        "method": refuses("it serves LoRA only", MERGE, "vllm/lora/peft_helper.py, PEFTHelper.from_dict"),
        "dora": _stops("`vLLM does not yet support DoRA`"),
        "bias-field": refuses("`Adapter bias is not supported`", "set it to `none` if the file has no biases; else " + MERGE, _LEGAL),
        "lora-bias": _stops("`vLLM does not support LoRA bias`"),
        "modules-to-save-but-heads": _stops('`vLLM only supports modules_to_save being either None or ["classifier", "score"]`'),
        "token-rows": refuses("`… is unsupported LoRA weight`", MERGE, _NAMES),
        "rewriting-init": refuses("`vLLM does not support init_lora_weights`", CONVERT_INIT, _HELPER),
        "alora": _stops("`vLLM does not support Activated LoRA (aLoRA)`"),
        "layer-replication": refuses("`vLLM does not support layer_replication`", "export the replicated model as a whole", _HELPER),
        "bdlora": _stops("`vLLM does not support block-diagonal LoRA (BD-LoRA)`"),
        "qalora": _stops("`vLLM does not support QALoRA`"),
        "further-tensors": refuses("`… is unsupported LoRA weight`", MERGE, _NAMES),
        "resized-embedding": refuses(
            "`The embedding LoRA size must be consistent with the base model's vocabulary size`",
            "serve the base with its resized embedding, or merge",
            "vllm/lora/lora_model.py, LoRAModel.from_lora_tensors",
        ),
        "adapter-name": refuses("`… is unsupported LoRA weight`", "take the adapter's name out of the keys", _NAMES),
        "wrapper": gets_wrong(
            "loads the adapter and serves the base model",
            "modules are matched by their last component when the names are checked and by the whole path when they are applied",
            "take the wrapper's name out of the keys",
            "vllm/lora/model_manager.py, LoRAModelManager.activate_adapter",
        ),
        "backbone": gets_wrong(
            "generates with the base model",
            "the names match no module of a model with a head; only a pooling model is asked without `model.`",
            "serve it as a pooling model, or put `model.` into the keys",
            "vllm/lora/model_manager.py, LoRAModelManager._get_lora_layer_weights",
        ),
        "vision": gets_wrong(
            "leaves out what is not the language model's",
            "towers and connectors are not wrapped by default, and nothing is said about their tensors",
            "serve it with `--enable-tower-connector-lora` where the model supports that, or merge",
            "vllm/lora/model_manager.py, LoRAModelManager._maybe_init_mm; vllm/config/lora.py",
        ),
    },
    own=(_rank, _required),
)
