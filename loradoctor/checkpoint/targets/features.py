"""The features of adapters that runtimes differ on: each a function that finds its trace, or None."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from loradoctor.checkpoint.targets.facts import Facts
from loradoctor.checkpoint.targets.target import Trace
from loradoctor.checkpoint.wording import counted, listed, verb

_REWRITING = ("pissa", "olora", "corda", "loftq")
_HALVES = frozenset({"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"})
_HEADS = frozenset({"score", "classifier"})
_BARE = re.compile(r"(?:layers|h|blocks)\.\d+\.")
"""How module paths start in a model without a head; with one they start with `model.` or `transformer.`."""
_OUTPUTS = frozenset({"lm_head", "embed_out", "output"})


def _format(facts: Facts) -> Trace | None:
    return Trace("it is in MLX's format, not in PEFT's", of="directory") if facts.mlx else None


def _foreign_names(facts: Facts) -> Trace | None:
    foreign = facts.checkpoint.foreign
    if foreign is not None:
        return Trace(f"its tensors have the names of another format ({foreign[0].title})", key=foreign[1][0], of="weights")
    return None


def _method(facts: Facts) -> Trace | None:
    peft_type = facts.get("peft_type")
    if peft_type is None or peft_type == "LORA":
        return None
    return Trace(f"its method is {peft_type}, not LORA", "peft_type")


def _flag(field: str, says: str) -> Callable[[Facts], Trace | None]:
    def detect(facts: Facts) -> Trace | None:
        return Trace(f"{says} (`{field}`)", field) if facts.get(field) else None

    return detect


def _dora(facts: Facts) -> Trace | None:
    magnitudes = tuple(k.name for k in facts.keys("lora_magnitude_vector"))
    if facts.get("use_dora"):
        return Trace("it is a DoRA adapter (`use_dora`)", "use_dora", names=magnitudes)
    return Trace(f"it has {counted(len(magnitudes), 'DoRA magnitude')}", magnitudes[0], "weights", magnitudes) if magnitudes else None


def _rslora(facts: Facts) -> Trace | None:
    if not facts.get("use_rslora") or facts.ranks == {1} or facts.alpha is None:
        return None
    rank = facts.largest_rank
    right, wrong = facts.alpha / math.sqrt(rank), facts.alpha / rank
    return Trace(f"`use_rslora` is set, and the scaling of rank {rank} is {right:g} instead of {wrong:g}", "use_rslora")


def _alpha_pattern(facts: Facts) -> Trace | None:
    names = facts.other_alphas
    if not names or facts.alpha is None:
        return None
    says = f"{counted(len(names), 'module')} {verb(len(names), 'has', 'have')} another alpha than {facts.alpha:g} ({listed(names, 2)})"
    return Trace(says, "alpha_pattern", names=names)


def _rank_pattern(facts: Facts) -> Trace | None:
    names = facts.other_ranks
    if not names:
        return None
    return Trace(
        f"{counted(len(names), 'module')} {verb(len(names), 'has', 'have')} another rank than `r` = {facts.rank} ({listed(names)})",
        "rank_pattern" if facts.get("rank_pattern") else "r",
        names=names,
    )


def _bias(facts: Facts) -> Trace | None:
    names = tuple(k.name for k in facts.biases)
    return Trace(f"it has {counted(len(names), 'bias', 'biases')} of the base", names[0], "weights", names) if names else None


def _bias_field(facts: Facts) -> Trace | None:
    value = facts.get("bias")
    return Trace(f"`bias` is `{value}`", "bias") if value not in (None, "none") else _bias(facts)


def _lora_bias(facts: Facts) -> Trace | None:
    names = tuple(k.name for k in facts.keys("lora_B", "lora_A") if k.suffix == "bias")
    if facts.get("lora_bias"):
        return Trace("its halves have biases (`lora_bias`)", "lora_bias", names=names)
    return Trace("its halves have biases", names[0], "weights", names) if names else None


def _whole(facts: Facts, *, heads: bool | None) -> Trace | None:
    config = facts.checkpoint.config
    declared = [n for n in (config.modules_to_save if config else ()) if heads is None or (n in _HEADS) is heads]
    keys = [k for k in facts.whole if heads is None or (k.short in _HEADS) is heads]
    if declared:
        return Trace(f"{listed(declared)} {verb(len(declared), 'is', 'are')} saved whole (`modules_to_save`)", "modules_to_save")
    if not keys:
        return None
    names = tuple(k.name for k in keys)
    return Trace(f"{counted(len(names), 'tensor')} of the base {verb(len(names), 'is', 'are')} in the file ({listed(names, 2)})",
                 names[0], "weights", names)  # fmt: skip


def _modules_to_save(facts: Facts) -> Trace | None:
    return _whole(facts, heads=None)


def _modules_but_heads(facts: Facts) -> Trace | None:
    return _whole(facts, heads=False)


def _input_embedding(facts: Facts) -> Trace | None:
    names = tuple(k.name for k in facts.keys("lora_embedding_A"))
    return Trace(f"an input embedding has LoRA halves ({listed(names, 1)})", names[0], "weights", names) if names else None


def _output_embedding(facts: Facts) -> Trace | None:
    names = tuple(a.module for a in facts.adapted if a.short in _OUTPUTS and "." not in a.module.removeprefix("model."))
    return Trace(f"the output embedding has LoRA halves ({listed(names, 1)})", "target_modules", names=names) if names else None


def _token_rows(facts: Facts) -> Trace | None:
    names = tuple(k.name for k in facts.keys("trainable_tokens_delta"))
    if not names:
        return None
    return Trace("it has trained rows of an embedding (`trainable_token_indices`)", "trainable_token_indices", names=names)


def _rewriting_init(facts: Facts) -> Trace | None:
    init = facts.get("init_lora_weights")
    if not isinstance(init, str) or not init.lower().startswith(_REWRITING):
        return None
    return Trace(f"`init_lora_weights` is `{init}`: it was trained on base weights that only PEFT makes again", "init_lora_weights")


def _extras(facts: Facts) -> Trace | None:
    names = tuple(k.name for k in facts.checkpoint.keys if k.role.startswith("lora_") and k.role not in _HALVES)
    return Trace(f"a LoRA variant has further tensors ({listed(names, 1)})", names[0], "weights", names) if names else None


def _regex(facts: Facts) -> Trace | None:
    targets = facts.get("target_modules")
    if not isinstance(targets, str) or targets in ("all", "all-linear"):
        return None
    return Trace("`target_modules` is a regular expression, not a list", "target_modules")


def _adapter_name(facts: Facts) -> Trace | None:
    return _with_problem(facts, "adapter-name", "hold the name of the adapter")


def _wrapper(facts: Facts) -> Trace | None:
    return _with_problem(facts, "wrapper", "hold the name of a training wrapper")


def _other_prefix(facts: Facts) -> Trace | None:
    for problem, says in (("nested", "have PEFT's prefix twice"), ("no-prefix", "have no `base_model.model.` prefix")):
        if trace := _with_problem(facts, problem, says):
            return trace
    return None


def _with_problem(facts: Facts, problem: str, says: str) -> Trace | None:
    names = tuple(k.name for k in facts.checkpoint.keys if problem in k.problems)
    return Trace(f"{counted(len(names), 'key')} {says} ({listed(names, 1)})", names[0], "weights", names) if names else None


def _vision(facts: Facts) -> Trace | None:
    names = facts.vision
    return Trace(f"{counted(len(names), 'module')} outside the language model {verb(len(names), 'has', 'have')} LoRA halves "
                 f"({listed(names, 1)})", names=names, of="weights") if names else None  # fmt: skip


def _fused_experts(facts: Facts) -> Trace | None:
    names = facts.fused
    if not names:
        return None
    key = "target_parameters" if facts.get("target_parameters") else "target_modules"
    return Trace(f"parameters of fused experts have LoRA halves ({listed(names, 1)})", key, names=names)


def _backbone(facts: Facts) -> Trace | None:
    names = tuple(a.module for a in facts.adapted if _BARE.match(a.module))
    if not names or facts.get("task_type") in ("FEATURE_EXTRACTION", "SEQ_CLS", "TOKEN_CLS"):
        return None
    return Trace(f"it was trained on a model without a head: modules are called {listed(names, 1)}", names=names, of="weights")


def _pickle(facts: Facts) -> Trace | None:
    weights = facts.checkpoint.weights
    return Trace(f"its weights are in `{weights.name}`", of="weights") if weights is not None and weights.suffix == ".bin" else None


def _resized(facts: Facts) -> Trace | None:
    vocabulary = facts.vocabulary
    if vocabulary is None:
        return None
    rows = {k.name: facts.checkpoint.tensors[k.name].shape[-1:] for k in facts.keys("lora_embedding_A")}
    names = tuple(name for name, shape in rows.items() if shape and shape[0] != vocabulary)
    if not names:
        return None
    return Trace(f"its embedding has {rows[names[0]][0]:,} tokens and the base {vocabulary:,}", names[0], "weights", names)


WHOLE: Mapping[str, Callable[[Facts], Trace | None]] = {"format": _format, "foreign-names": _foreign_names, "method": _method}
"""What an adapter is, where that says all there is to say."""

FEATURES: Mapping[str, Callable[[Facts], Trace | None]] = {
    "pickle": _pickle,
    "dora": _dora,
    "rslora": _rslora,
    "alpha-pattern": _alpha_pattern,
    "rank-pattern": _rank_pattern,
    "bias": _bias,
    "bias-field": _bias_field,
    "lora-bias": _lora_bias,
    "modules-to-save": _modules_to_save,
    "modules-to-save-but-heads": _modules_but_heads,
    "input-embedding": _input_embedding,
    "output-embedding": _output_embedding,
    "resized-embedding": _resized,
    "token-rows": _token_rows,
    "rewriting-init": _rewriting_init,
    "alora": _flag("alora_invocation_tokens", "it is an activated LoRA, on from its invocation tokens only"),
    "layer-replication": _flag("layer_replication", "it was trained on repeated layers of the base"),
    "bdlora": _flag("use_bdlora", "its halves are block-diagonal"),
    "qalora": _flag("use_qalora", "it is a QALoRA adapter"),
    "further-tensors": _extras,
    "regex-targets": _regex,
    "fused-experts": _fused_experts,
    "backbone": _backbone,
    "adapter-name": _adapter_name,
    "wrapper": _wrapper,
    "prefix": _other_prefix,
    "vision": _vision,
}
"""Name (the ``cause`` of a finding) → detector, in the order in which findings are made."""
