"""`peft_type`, `target_modules` and what is left over in `adapter_config.json`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from loradoctor.checkpoint.methods import METHODS, UNKNOWN, guess
from loradoctor.checkpoint.methods.fields import known
from loradoctor.checkpoint.methods.lora import halves as pair_of
from loradoctor.checkpoint.target_modules import ALL_LINEAR, decide
from loradoctor.checkpoint.wording import listed
from loradoctor.repair.draft import Draft
from loradoctor.repair.plan import ABSENT

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
_NORM = re.compile(r"(norm|layernorm|ln_\w+)$", re.IGNORECASE)
_WRITER = "the config that was saved with these tensors"
_FROM_TENSORS = "the modules that have tensors"


def method(draft: Draft) -> None:
    """Set `peft_type` to the method whose tensors these are, where its spelling or the tensors leave no doubt."""
    checkpoint = draft.checkpoint
    value, actual = draft.config.get("peft_type"), checkpoint.tensor_method
    if value == "BONE" and any(".bone_" in name for name in checkpoint.tensors):
        # peft/scripts/convert-bone-to-miss.py: the successor has the same tensors under its own name.
        draft.rename({n: n.replace(".bone_", ".miss_") for n in checkpoint.tensors}, "BONE became MISS in PEFT 0.19")
        draft.set("peft_type", "MISS", "BONE became MISS in PEFT 0.19")
        return
    if actual is UNKNOWN or checkpoint.foreign is not None:
        return
    if isinstance(value, str) and value in METHODS and METHODS[value] is actual:
        return
    spelled = METHODS.get(str(value).strip().upper().replace("-", "_")) if isinstance(value, str) else None
    if spelled is actual:
        draft.set("peft_type", actual.peft_type, "PEFT looks the method up exactly as it spells it")
    elif isinstance(value, str) and spelled is None:
        draft.refuse(f"`{value}` is no method that any known PEFT has", "the PEFT that wrote the adapter")
    elif value is None and len(_candidates(checkpoint.tensors)) > 1:
        draft.refuse("`peft_type` is missing, and several methods have such tensors", _WRITER)
    elif actual.peft_type == "LORA" and (draft.config.get("lora_alpha") is not None or draft.wishes.alpha is not None):
        draft.set("peft_type", "LORA", "the tensors are LoRA's")
    elif value is None and actual.peft_type != "LORA":
        draft.set("peft_type", actual.peft_type, f"the tensors are those of {actual.peft_type}")
    else:
        lost = "`lora_alpha` of the training (`--lora-alpha`)" if actual.peft_type == "LORA" else _WRITER
        draft.refuse(f"the tensors are those of {actual.peft_type}, and the config says {value or 'nothing'}", lost)


def _candidates(names: Iterable[str]) -> tuple[str, ...]:
    parts = frozenset(part for name in names for part in name.split("."))
    found = {m.peft_type for m in guess(parts)}
    adaptive = "lora_E" in parts
    return tuple(found - ({"LORA"} if adaptive else {"ADALORA"} if "LORA" in found else set()))


def target_modules(draft: Draft) -> None:
    """Let the config target exactly the modules that have tensors, where it does not say, fits none, or the user wants it."""
    config = draft.lora
    if config is None or config.get("target_parameters"):
        return
    modules = [m for m, roles in draft.checkpoint.by_module.items() if pair_of(roles) is not None]
    targets = config.get("target_modules")
    literal = isinstance(targets, str) and targets.lower() == ALL_LINEAR
    outside = _outside(draft, modules)
    if not modules or (not outside and targets is not None and not literal):
        return
    norms = [m for m in modules if _NORM.search(m)]
    if norms:
        draft.refuse(
            f"{listed(norms)} {'has' if len(norms) == 1 else 'have'} LoRA tensors, and PEFT adapts no normalisation", "how it was trained"
        )
    elif "modules_to_save" in outside.values():
        draft.refuse("modules of `modules_to_save` have LoRA tensors too, and PEFT adapts none of them", "which of the two was trained")
    elif outside and len(outside) < len(modules) and draft.wishes.outside == "drop":
        names = [key.name for m in outside for key in draft.checkpoint.by_module[m].values()]
        draft.drop(names, "the config does not target the module (`--outside drop`)")
    elif outside and len(outside) < len(modules) and draft.wishes.outside != "adapt":
        # A model that was wrapped twice saves the tensors of both adapters with the config of one.
        draft.refuse(
            f"{len(outside)} of {len(modules)} modules with tensors are not targeted by the config: {listed(outside)}",
            "whether they belong to this adapter: `--outside adapt` targets them as well, `--outside drop` leaves them out",
        )
    else:
        _retarget(draft, modules, frozenset(outside.values()), "it fits none of them" if outside else _WHY_UNSAID[literal])


_WHY_UNSAID = {
    True: "the literal stands for other modules on every base",
    False: "it was missing, and PEFT takes its default for the architecture then",
}


def _outside(draft: Draft, modules: Iterable[str]) -> dict[str, str]:
    """The modules that the config leaves out → the field that does."""
    config = draft.lora
    assert config is not None  # noqa: S101 -- the caller looked
    try:
        verdicts = {m: decide(config, m) for m in modules}
    except re.error:
        return dict.fromkeys(modules, "target_modules")
    return {m: verdict.because for m, verdict in verdicts.items() if verdict.targeted is False}


def _retarget(draft: Draft, modules: list[str], reasons: frozenset[str], why: str) -> None:
    if "exclude_modules" in reasons:
        draft.set("exclude_modules", None, "it excludes modules that have tensors")
    if "layers_to_transform" in reasons:
        draft.set("layers_to_transform", None, "it leaves out layers that have tensors")
        draft.set("layers_pattern", None, "it goes with `layers_to_transform`")
    if draft.wishes.outside == "adapt" and reasons:
        why = "`--outside adapt`"
    draft.set("target_modules", named(modules, _base_modules(draft)), f"{_FROM_TENSORS}; {why}")


def _base_modules(draft: Draft) -> tuple[str, ...]:
    loads = draft.evidence.loads if draft.evidence is not None else None
    return loads.modules if loads is not None else ()


def named(modules: Iterable[str], base: Iterable[str] = ()) -> list[str]:
    """The shortest `target_modules` that fits exactly ``modules``: last components where all of a kind are there, else full paths.

    ``base`` are the module names of the base model. Without them the layers that any of ``modules`` is in have to do.
    """
    listed = set(modules)
    others = set(base) - listed
    depth = _layers(listed)
    kinds: dict[str, set[str]] = {}
    for module in listed:
        kinds.setdefault(module.rpartition(".")[2], set()).add(module)
    result = []
    for name, members in kinds.items():
        alone = not any(o == name or o.endswith(f".{name}") for o in others) if base else _everywhere(members, depth)
        result += [name] if alone else list(members)
    return sorted(result)


def _everywhere(members: set[str], depth: Mapping[str, set[int]]) -> bool:
    """Whether a kind of module is there in every layer of its stacks."""
    own = _layers(members)
    return all(layers == depth[stack] for stack, layers in own.items())


def _layers(modules: Iterable[str]) -> dict[str, set[int]]:
    """What stands before the first number in a module path → the numbers found there."""
    found: dict[str, set[int]] = {}
    for module in modules:
        if match := _LAYER.search(module):
            found.setdefault(module[: match.start(1)], set()).add(int(match[1]))
    return found


def housekeeping(draft: Draft) -> None:
    """What belongs to a running process, what PEFT corrects anyway, and fields that no PEFT has and nothing sets."""
    if draft.config.get("inference_mode") is False:
        draft.set("inference_mode", value=True, why="a saved adapter is for inference; who trains on passes `is_trainable=True`")
    if "runtime_config" in draft.config:
        draft.set("runtime_config", ABSENT, "it is for a running process; PEFT ignores it in files")
    fields = known(draft.checkpoint.method.peft_type)
    for name in [n for n, value in draft.config.items() if fields and n not in fields and not value]:
        draft.set(name, ABSENT, "no known PEFT has this field, and nothing sets it")
    loads = draft.evidence.loads if draft.evidence is not None else None
    for warning in loads.warnings if loads is not None else ():
        if warning.startswith("fan_in_fan_out is set to "):
            draft.set("fan_in_fan_out", "set to False" in warning, "as the layers of the base are")
