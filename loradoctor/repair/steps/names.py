"""Names of tensors: wrappers, nested prefixes, adapter names, missing prefixes and old spellings."""

from __future__ import annotations

import re

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.fit import diagnose
from loradoctor.checkpoint.key import PAIRED, PREFIX, WRAPPERS, Key
from loradoctor.checkpoint.methods.lora import expected_rank, found_ranks
from loradoctor.repair.draft import Draft

_LOWER = re.compile(r"\.lora_([ab])\.weight$")
_WITHOUT_SUFFIX = frozenset({"lora_embedding_A", "lora_embedding_B", "lora_E", "lora_magnitude_vector", "lora_diag"})


def wrappers(draft: Draft) -> None:
    """`_orig_mod`, `module`, `_fsdp_wrapped_module`, `_checkpoint_wrapped_module` and a second `base_model.model.` go."""
    keys = draft.checkpoint.keys
    draft.rename({k.name: _unwrapped(k) for k in keys if "wrapper" in k.problems}, _why(keys))
    nested = {k.name: _once(k.name) for k in draft.checkpoint.keys if "nested" in k.problems}
    draft.rename(nested, "the model was wrapped twice: one `base_model.model.` is enough")


def _why(keys: tuple[Key, ...]) -> str:
    names = dict.fromkeys(w for k in keys for w in k.wrappers)
    return f"{', '.join(f'`{n}`' for n in names)} is a wrapper's name, not the base model's"


def _unwrapped(key: Key) -> str:
    parts = [p for p in key.name.split(".") if p not in WRAPPERS]
    while parts[:2] == ["module", "base_model"]:
        parts = parts[1:]
    inside = "module" in key.wrappers
    kept: list[str] = []
    while parts[:2] == ["base_model", "model"]:
        kept += parts[:2]
        parts = parts[2:]
        if inside and parts[:1] == ["module"]:
            parts = parts[1:]
    return ".".join((*kept, *parts))


def _once(name: str) -> str:
    while name.startswith(PREFIX + PREFIX):
        name = name.removeprefix(PREFIX)
    return name


def adapter_names(draft: Draft) -> None:
    """The adapter's name goes: `…lora_A.default.weight`."""
    names = {}
    for key in draft.checkpoint.keys:
        if "adapter-name" not in key.problems or key.role in ("modules_to_save", "original_module") or not key.adapter:
            continue
        head = key.name[: key.name.rindex(f".{key.role}.") + len(key.role) + 1]
        suffix = "" if key.role in _WITHOUT_SUFFIX or not key.suffix else f".{key.suffix}"
        names[key.name] = head + suffix
    draft.rename(names, "PEFT puts the adapter's name in itself when it loads")


def spelling(draft: Draft) -> None:
    """`lora_A` without `.weight` gets it where the method has it; `lora_a` in PEFT's place and shape becomes `lora_A`."""
    peft_type = draft.checkpoint.method.peft_type
    if peft_type == "LORA":
        draft.rename(lower_case(draft.checkpoint), "PEFT writes `lora_A` and `lora_B`")
        keys = draft.checkpoint.keys
        missing = {k.name: f"{k.name}.weight" for k in keys if k.role in PAIRED and k.suffix == "" and k.name.endswith(k.role)}
        draft.rename(missing, "the halves of LoRA end with `.weight`")
        whole = {k.name: k.name.removesuffix(".weight") for k in keys if k.role.startswith("lora_embedding_") and k.suffix == "weight"}
        draft.rename(whole, "the halves of an embedding's LoRA have no `.weight`")
    elif peft_type == "ADALORA":
        keys = draft.checkpoint.keys
        extra = {k.name: k.name.removesuffix(".weight") for k in keys if k.role in (*PAIRED, "lora_E") and k.suffix == "weight"}
        draft.rename(extra, "the parts of AdaLoRA have no `.weight`")


def lower_case(checkpoint: Checkpoint) -> dict[str, str]:
    """Names with `lora_a` and `lora_b` that are PEFT's otherwise, prefix and shapes included, and what PEFT calls them; else nothing."""
    names = {name: _LOWER.sub(_upper, name) for name in checkpoint.tensors if _LOWER.search(name)}
    ours = checkpoint.method.peft_type == "LORA" and all(name.startswith(PREFIX) for name in names)
    return names if ours and _fit(checkpoint, names) else {}


def _upper(match: re.Match[str]) -> str:
    return f".lora_{match[1].upper()}.weight"


def _fit(checkpoint: Checkpoint, lower: dict[str, str]) -> bool:
    """Whether the halves have PEFT's orientation: (rank, in) and (out, rank) with the rank that the config says."""
    tensors, config = checkpoint.tensors, checkpoint.config
    for name, new in lower.items():
        if not new.endswith("lora_A.weight"):
            continue
        other = name.replace(".lora_a.", ".lora_b.")
        if other not in tensors or config is None:
            return False
        a, b = found_ranks(tensors[name], tensors[other])
        rank = expected_rank(config, name.removeprefix(PREFIX).removesuffix(".lora_a.weight"))
        if a is None or a != b or (rank is not None and rank.source != "default" and rank.value != a):
            return False
    return True


def prefix(draft: Draft) -> None:
    """`base_model.model.` is put before names that lack it."""
    keys = [k for k in draft.checkpoint.keys if k.role]
    bare = [k.name for k in keys if "no-prefix" in k.problems]
    if bare and len(bare) == len(keys):
        others = [k.name for k in draft.checkpoint.keys if not k.role and not k.name.startswith("base_model.")]
        draft.rename({n: PREFIX + n for n in (*bare, *others)}, f"PEFT looks for `{PREFIX}` before every module path")
    elif bare:
        draft.rename({n: PREFIX + n for n in bare}, f"PEFT looks for `{PREFIX}` before every module path")


def foreign_prefix(draft: Draft) -> None:
    """The path of another class around the same modules becomes the base's own, where exactly one change does it."""
    misfit = diagnose(draft.checkpoint)
    if misfit is None or misfit.kind != "prefix":
        return
    old, new = str(misfit.detail["old"]), str(misfit.detail["new"])
    loads = draft.evidence.loads if draft.evidence is not None else None
    base = loads.class_name if loads is not None else "the base"
    if not old.startswith(PREFIX.split(".", maxsplit=1)[0]) and loads is not None and not loads.expected:
        old, new = PREFIX + old, PREFIX + new
    changed = {name: new + name.removeprefix(old) for name in draft.steps if name.startswith(old)}
    draft.rename(changed, f"`{base}` has these modules under `{new}`, not `{old}`: no other change of prefix fits")
    _rewrite_patterns(draft, old.removeprefix(PREFIX), new.removeprefix(PREFIX))


def _rewrite_patterns(draft: Draft, old: str, new: str) -> None:
    """Full module paths in the config follow the tensors."""

    def moved(name: object) -> object:
        return new + name.removeprefix(old) if isinstance(name, str) and old and name.startswith(old) else name

    for key in ("target_modules", "exclude_modules", "modules_to_save", "target_parameters"):
        value = draft.config.get(key)
        if isinstance(value, list):
            draft.set(key, [moved(v) for v in value], "the paths follow the tensors")
    for key in ("rank_pattern", "alpha_pattern"):
        value = draft.config.get(key)
        if isinstance(value, dict):
            draft.set(key, {str(moved(k)): v for k, v in value.items()}, "the paths follow the tensors")


def saved_modules(draft: Draft) -> None:
    """`lm_head.modules_to_save.default.weight` becomes `lm_head.weight`; the frozen original that a raw state dict holds goes."""
    keys = draft.checkpoint.keys
    plain = {f"{k.module}.{k.suffix}" for k in keys if not k.role}
    old = [k for k in keys if k.role == "modules_to_save" and f"{k.module}.{k.suffix}" not in plain]
    if old:
        originals = [k.name for k in keys if k.role == "original_module"]
        draft.drop(originals, "the base model's own copy, which PEFT does not save")
        draft.rename({k.name: f"{PREFIX}{k.module}.{k.suffix}" for k in old}, "PEFT looks for a saved module under its own name")
