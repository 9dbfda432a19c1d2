"""SGLang, read in the wheel of 0.5.23 (`sglang/srt/lora`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from loradoctor.checkpoint.opening import opened
from loradoctor.checkpoint.targets.facts import Facts
from loradoctor.checkpoint.targets.target import CONVERT_INIT, MERGE, Reaction, Target, Trace, gets_wrong, refuses
from loradoctor.checkpoint.targets.ways_out import without_alpha_pattern, without_rslora
from loradoctor.checkpoint.wording import counted, listed, verb

_ADAPTER = "sglang/srt/lora/lora.py, LoRAAdapter.__init__"
_CONFIG = "sglang/srt/lora/lora_config.py, LoRAConfig.__init__"
_WEIGHTS = "sglang/srt/lora/lora.py, LoRAAdapter._process_weight"
_QKV = "sglang/srt/lora/lora.py, LoRAAdapter.normalize_qkv_proj"
_POOL = "sglang/srt/lora/mem_pool.py, LoRAMemoryPool.load_lora_weight_to_buffer"
_MANAGER = "sglang/srt/lora/lora_manager.py, LoRAManager.validate_new_adapter"
_LAYER = re.compile(r"layers\.(\d+)\.")
_REQUIRED = ("r", "lora_alpha", "target_modules")
_LIMIT = 16 << 20
_EMBEDDINGS = {
    "embed_tokens": "embed_tokens", "vocab_emb": "embed_tokens", "embeddings": "embed_tokens", "word_embeddings": "embed_tokens",
    "lm_head": "lm_head", "output": "lm_head", "unembed_tokens": "lm_head",
}  # fmt: skip
"""Names in `target_modules` → the embedding they stand for (sglang/srt/lora/utils.py, get_normalized_target_modules)."""


def _qkv(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    """q, k and v become one tensor: k may be absent, v may not where q is, and nothing is stacked without q."""
    by_parent: dict[str, set[str]] = {}
    for adapted in facts.adapted:
        parent, _, short = adapted.module.rpartition(".")
        if short in ("q_proj", "k_proj", "v_proj") and _LAYER.search(adapted.module):
            by_parent.setdefault(parent, set()).add(short)
    without_v = [p for p, shorts in by_parent.items() if "q_proj" in shorts and "v_proj" not in shorts]
    without_q = [p for p, shorts in by_parent.items() if "q_proj" not in shorts]
    if without_v:
        trace = Trace(f"`q_proj` is adapted and `v_proj` is not ({listed(without_v, 1)})", "target_modules", names=tuple(without_v))
        yield "q-without-v", trace, refuses("a KeyError for the tensors of `v_proj`", f"add zero halves for `v_proj`, or {MERGE}", _QKV)
    elif without_q:
        trace = Trace(f"`k_proj` or `v_proj` is adapted and `q_proj` is not ({listed(without_q, 1)})", "target_modules",
                      names=tuple(without_q))  # fmt: skip
        way_out = f"add zero halves for `q_proj`, or {MERGE}"
        yield "v-without-q", trace, refuses("`Cannot find target module name`", way_out, _POOL)


def _whole(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    """Whole tensors below a layer have no buffer to go to; others are left out without a word."""
    inside = tuple(k.name for k in facts.whole if _LAYER.search(k.name))
    outside = tuple(k.name for k in facts.whole if not _LAYER.search(k.name))
    says = "{} of the base {} in the file ({})"
    if inside:
        trace = Trace(says.format(counted(len(inside), "tensor"), verb(len(inside), "is", "are"), listed(inside, 1)), inside[0],
                      "weights", inside)  # fmt: skip
        yield "modules-to-save", trace, refuses("`Cannot find target module name`", MERGE, _POOL)
    elif outside:
        trace = Trace(says.format(counted(len(outside), "tensor"), verb(len(outside), "is", "are"), listed(outside, 1)), outside[0],
                      "weights", outside)  # fmt: skip
        why = "`modules_to_save` is not read: the base's own tensors are used"
        yield "modules-to-save", trace, gets_wrong("leaves out modules that were saved whole", why, MERGE, _WEIGHTS)


def _embeddings(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    """Halves of the embeddings are kept when `target_modules` names `embed_tokens` or `lm_head`, by whatever path."""
    targets = facts.get("target_modules")
    named = {_EMBEDDINGS.get(str(t).rpartition(".")[2]) for t in targets} if isinstance(targets, list) else {"embed_tokens", "lm_head"}
    halves = facts.keys("lora_embedding_A", "lora_A")
    names = tuple(
        k.name for k in halves if not _LAYER.search(k.name) and any(e in k.name and e not in named for e in ("embed_tokens", "lm_head"))
    )
    if names:
        trace = Trace(f"an embedding has halves, and `target_modules` does not name it ({listed(names, 1)})", names[0], "weights", names)
        why = "they are skipped with a debug message"
        way_out = "name `embed_tokens` or `lm_head` in `target_modules`"
        yield "embedding", trace, gets_wrong("leaves out the halves of the embedding", why, way_out, _WEIGHTS)


def _required(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    missing = [f for f in _REQUIRED if facts.get(f) is None]
    if missing:
        way_out = "write these fields into `adapter_config.json` as it was trained"
        yield "missing-field", Trace(f"the config has no {listed(missing)}"), refuses("a KeyError or TypeError", way_out, _CONFIG)


def _added_tokens(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    vocabulary = facts.vocabulary
    path = facts.checkpoint.directory / "added_tokens.json"
    if vocabulary is None or not path.is_file():
        return
    try:
        with opened(path) as file:
            tokens = json.loads(file.read(_LIMIT))
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(tokens, dict):
        return
    beyond = [name for name, number in tokens.items() if isinstance(number, int) and number >= vocabulary]
    if beyond:
        trace = Trace(f"`added_tokens.json` has {counted(len(beyond), 'token')} beyond the base's {vocabulary:,}", of="directory",
                      names=tuple(beyond))  # fmt: skip
        yield "added-tokens", trace, refuses("`doesn't support adapters that add tokens to the vocabulary`", MERGE, _MANAGER)


def _shapes(why: str) -> Reaction:
    return refuses(why, MERGE, _POOL)


def _unread(field: str, why: str, way_out: str = MERGE) -> Reaction:
    return gets_wrong(f"does not read `{field}`", why, way_out, _ADAPTER)


TARGET = Target(
    "sglang",
    "SGLang",
    "0.5.23",
    {
        "format": refuses("it reads PEFT's names and config only", "convert it to PEFT's format first", _CONFIG),
        "foreign-names": gets_wrong("serves the base model", "only names with `lora_A` are taken for first halves, and none has it",
                                    "convert it to PEFT's format first", _POOL),
        "method": refuses("it asserts that `peft_type` is LORA", MERGE, _ADAPTER),
        "dora": refuses("`LoRA serving currently doesn't support DoRA adapters`", MERGE, _MANAGER),
        "rslora": gets_wrong("scales by alpha / r and not by alpha / √r", "the adapter acts with a fraction of its strength",
                             without_rslora, _ADAPTER),
        "alpha-pattern": _unread("alpha_pattern", "these modules are scaled by `lora_alpha` / `r`", without_alpha_pattern()),
        "rank-pattern": _shapes("`LoRA buffer shape … does not match weight shape`: buffers have room for `r` only"),
        "bias": _unread("bias", "the base's own biases are used"),
        "lora-bias": _unread("lora_bias", "the biases of the halves are left out"),
        "token-rows": gets_wrong("leaves out trained rows of the embedding", "they are skipped with a debug message", MERGE, _WEIGHTS),
        "rewriting-init": gets_wrong("applies it to the unchanged base", "`init_lora_weights` is not read", CONVERT_INIT, _ADAPTER),
        "alora": _unread("alora_invocation_tokens", "the adapter acts on every token"),
        "layer-replication": refuses("an IndexError: it has as many layers as the base", "export the replicated model as a whole", _WEIGHTS),
        "bdlora": _shapes("`LoRA buffer shape … does not match weight shape`"),
        "qalora": _shapes("`LoRA buffer shape … does not match weight shape`"),
        "further-tensors": _shapes("`LoRA buffer shape … does not match weight shape`: they are taken for `lora_B`"),
        "fused-experts": refuses(
            "`Cannot find target module name`: experts are read one by one, or fused under the names of their projections", MERGE, _POOL,
        ),
        "regex-targets": refuses(
            "`Only 'all' or 'all-linear' can be used as the string for target module`",
            "write `target_modules` as a list of the module names that have tensors",
            "sglang/srt/lora/utils.py, get_normalized_target_modules",
        ),
        "vision": gets_wrong(
            "takes a module for that of the language model with the same layer number",
            "tensors are sorted by `layers.N.` and the module's last name, whatever stands before", MERGE, _WEIGHTS,
        ),
    },
    own=(_qkv, _whole, _embeddings, _required, _added_tokens),
)  # fmt: skip
