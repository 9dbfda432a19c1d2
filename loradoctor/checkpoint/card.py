"""What a checkpoint's subject shows: the facts of the card, as plain JSON values."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.evidence import LOADERS, Loader
from loradoctor.checkpoint.methods import UNKNOWN
from loradoctor.checkpoint.methods.lora import scaling_of
from loradoctor.checkpoint.target_modules import pattern_key

_VARIANTS = (
    ("use_dora", "DoRA"),
    ("use_rslora", "rsLoRA"),
    ("use_qalora", "QALoRA"),
    ("alora_invocation_tokens", "aLoRA"),
    ("layer_replication", "layer replication"),
    ("use_bdlora", "BD-LoRA"),
    ("kasa_config", "KaSA"),
    ("velora_config", "VeLoRA"),
    ("monteclora_config", "MonteCLoRA"),
)
_HUB_ID = re.compile(r"\w[\w.-]*(?:/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_NOT_TRAINED = frozenset({"base_layer", "original_module"})


def facts(checkpoint: Checkpoint) -> dict[str, object]:
    """Every field of the contract, None where the checkpoint does not say."""
    config = checkpoint.config
    get = config.get if config is not None else _nothing
    what = checkpoint.what
    return {
        "what": what.title,
        "written_by": what.writer,
        "method": config.peft_type if config else None,
        "variants": [label for field, label in _VARIANTS if get(field)],
        "base": config.base if config else None,
        "revision": get("revision"),
        "pinned": _pinned(checkpoint),
        "task_type": get("task_type"),
        "r": _plain(_ranks(checkpoint)) if config else None,
        "alpha": _plain(_alpha(checkpoint)) if config else None,
        "scaling": _scaling(checkpoint) if config else None,
        "modules": _modules(checkpoint),
        "layers": _layers(checkpoint),
        "modules_to_save": list(config.modules_to_save) if config else [],
        "parameters": parameters(checkpoint),
        "tensors": len(checkpoint.tensors),
        "dtypes": dict(sorted(Counter(info.dtype for info in checkpoint.tensors.values()).items())),
        "bytes": _size(checkpoint),
        "weights": checkpoint.weights.name if checkpoint.weights is not None else None,
        "peft_version": get("peft_version"),
        "trainer_checkpoint": checkpoint.kind == "trainer-checkpoint",
        "updates": _updates(checkpoint),
        "training_state": list(what.state),
        "fits": _fits(checkpoint),
        "loaders": loaders(checkpoint),
    }


def _pinned(checkpoint: Checkpoint) -> bool | None:
    """Whether the config says which commit of the base it means; None for a base that is a path, or none."""
    base = checkpoint.config.base if checkpoint.config is not None else None
    if base is None or not _HUB_ID.fullmatch(base):
        return None
    return checkpoint.config is not None and _COMMIT.fullmatch(str(checkpoint.config.get("revision"))) is not None


def _fits(checkpoint: Checkpoint) -> list[str]:
    """The well-known bases whose sizes the tensors show."""
    from loradoctor.checkpoint.known_bases import fitting, sizes

    return list(fitting(sizes(checkpoint), checkpoint.by_module)) if checkpoint.comparable is not None else []


def loaders(checkpoint: Checkpoint) -> list[dict[str, object]]:
    """What every loader makes of the adapter; all ``not-run`` when there was no base to load it onto."""
    evidence = checkpoint.evidence
    if evidence is not None and evidence.loaders:
        return [asdict(loader) for loader in evidence.loaders]
    reason = "`--no-base`: the base model was not looked at"
    if evidence is not None:
        reason = next((c.reason for c in evidence.checks if c.name == "loads"), "the torch side gave no answer")
    return [asdict(Loader(name, "not-run", of=len(checkpoint.tensors), reason=reason)) for name in LOADERS]


def _nothing(_: str) -> None:
    return None


def _updates(checkpoint: Checkpoint) -> list[dict[str, object]] | None:
    """What is changed by how much, per kind of module; None when no rule needed the values."""
    if not checkpoint.values_read:
        return None
    from loradoctor.checkpoint.family import table

    return table(checkpoint.spectra())


def _plain(value: object) -> object:
    """A config value that strict JSON can hold: NaN and infinity become text."""
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def parameters(checkpoint: Checkpoint) -> int | None:
    """Elements that were trained, as `print_trainable_parameters` counts them; None where the file cannot tell."""
    method = checkpoint.tensor_method
    if method.recomputed or (checkpoint.faults and not checkpoint.tensors):
        return None
    return sum(
        checkpoint.tensors[key.name].count
        for key in checkpoint.keys
        if (key.role not in _NOT_TRAINED or (key.role == "base_layer" and key.suffix == "bias"))
        and not key.role.startswith(method.frozen)
        and checkpoint.tensors[key.name].is_float
    )


def _size(checkpoint: Checkpoint) -> int | None:
    try:
        return checkpoint.weights.stat().st_size if checkpoint.weights is not None else None
    except OSError:
        return None


def _modules(checkpoint: Checkpoint) -> dict[str, int]:
    """Last component of each adapted module → how many there are."""
    return dict(sorted(Counter(m.rpartition(".")[2] or m for m in checkpoint.by_module if m not in ("", "base_model")).items()))


def _layers(checkpoint: Checkpoint) -> int | None:
    from loradoctor.checkpoint.target_modules import layer_index

    indices = {index for m in checkpoint.by_module if (index := layer_index(f"{m}.")) is not None}
    return len(indices) or None


def _ranks(checkpoint: Checkpoint) -> object:
    """The rank, or every rank with the number of modules that have it when they differ."""
    config = checkpoint.config
    if config is None or (config.get("r") is None and checkpoint.method is not UNKNOWN and not checkpoint.method.low_rank):
        return None
    found = Counter(_rank(checkpoint, roles) for roles in checkpoint.by_module.values())
    found.pop(None, None)
    if checkpoint.method.low_rank and len(found) == 1:
        return next(iter(found))
    if checkpoint.method.low_rank and found:
        return {str(rank): count for rank, count in sorted(found.items(), key=lambda item: item[0] or 0)}
    return config.get("r")


def _rank(checkpoint: Checkpoint, roles: Mapping[str, Any]) -> int | None:
    key = roles.get("lora_A") or roles.get("lora_embedding_A")
    shape = checkpoint.tensors[key.name].shape if key is not None else ()
    return shape[0] if shape else None


def _alpha(checkpoint: Checkpoint) -> object:
    config = checkpoint.config
    if config is None:
        return None
    return config.get("lora_alpha", config.get("alpha"))


def _scaling(checkpoint: Checkpoint) -> object:
    """alpha/r (alpha/√r for rsLoRA); a list when patterns give modules different ones."""
    config = checkpoint.config
    if config is None or checkpoint.method.peft_type != "LORA" or config.alpha is None:
        return None
    ranks, alphas = config.pattern("rank_pattern"), config.pattern("alpha_pattern")
    try:
        keys = {(pattern_key(ranks, m), pattern_key(alphas, m)) for m in checkpoint.by_module} or {(None, None)}
    except Exception:  # noqa: BLE001 -- a pattern that does not compile is LD522's to report
        return None
    found = sorted({s for rank, alpha in keys if (s := scaling_of(config, ranks.get(rank or ""), alphas.get(alpha or ""))) is not None})
    finite = [s for s in found if math.isfinite(s)]
    return finite[0] if len(finite) == 1 else finite or None
