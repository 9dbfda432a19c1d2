"""One tensor name taken apart: wrappers off, then module, role and what is odd about it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from loradoctor.checkpoint.methods import Method

PREFIX = "base_model.model."
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Components that torch.compile, FSDP and activation checkpointing put into module paths; no model has them of its own."""

PAIRED = frozenset({"lora_A", "lora_B"})
_NAMED = re.compile(r"lora_(?:A|B|E|embedding_A|embedding_B|magnitude_vector|diag)$")
_TAILS = frozenset({"weight", "bias"})


@dataclass(frozen=True, slots=True)
class Key:
    """A tensor name: ``module`` is the path in the base model, ``role`` what the tensor is there.

    ``role`` is PEFT's own name (``lora_A``, ``lora_magnitude_vector``, ``ia3_l``), ``base_layer``, ``modules_to_save``,
    ``trainable_tokens_delta``, or ``""`` for a plain tensor of the base model. ``suffix`` is what follows (``weight``).
    ``problems`` are ``nested``, ``wrapper``, ``adapter-name`` and ``no-prefix``; the rest of the key is as if they were not
    there.
    """

    name: str
    module: str
    role: str
    suffix: str = ""
    adapter: str | None = None
    wrappers: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """Last component of the module: what ``target_modules`` usually names."""
        return self.module.rpartition(".")[2]


def parse(names: Iterable[str], method: Method, *, hosted: bool, foreign: bool = False) -> tuple[Key, ...]:
    """Every name taken apart.

    ``hosted`` says that the base is a published model, whose top level is never called ``module``; ``foreign`` that the names are
    another tool's, which never have PEFT's prefix.
    """
    listed = tuple(names)
    strip_module = hosted and _all_below(listed, f"{PREFIX}module.")
    keys = tuple(_parse(name, method, strip_module=strip_module) for name in listed)
    if not foreign:
        return keys
    return tuple(replace(k, problems=tuple(p for p in k.problems if p != "no-prefix")) for k in keys)


def _all_below(names: tuple[str, ...], prefix: str) -> bool:
    return bool(names) and all(n.startswith(prefix) for n in names)


def _parse(name: str, method: Method, *, strip_module: bool) -> Key:
    problems: list[str] = []
    parts = name.split(".")
    wrappers = [p for p in parts if p in WRAPPERS]
    parts = [p for p in parts if p not in WRAPPERS]
    while parts[:2] == ["module", "base_model"]:
        wrappers.append(parts.pop(0))
    depth = 0
    while parts[:2] == ["base_model", "model"]:
        depth += 1
        parts = parts[2:]
        if strip_module and parts[:1] == ["module"]:
            wrappers.append(parts.pop(0))
    if depth > 1:
        problems.append("nested")
    if wrappers:
        problems.append("wrapper")
    if not parts:
        return Key(name, "", "", wrappers=tuple(wrappers), problems=tuple(problems))
    module, role, suffix, adapter = _role(parts, method)
    if depth == 0 and role and not method.prompt and parts[0] != "base_model":
        problems.append("no-prefix")
    if adapter is not None and not method.keeps_adapter_name:
        problems.append("adapter-name")
    return Key(name, module, role, suffix, adapter, tuple(wrappers), tuple(problems))


def _role(parts: list[str], method: Method) -> tuple[str, str, str, str | None]:
    for index, part in enumerate(parts):
        rest = parts[index + 1 :]
        if part == "base_layer" and not any(method.owns(p) for p in rest):
            return ".".join(parts[:index]), "base_layer", ".".join(rest), None
        if part in ("modules_to_save", "original_module"):
            return ".".join(parts[:index]), part, rest[-1] if rest else "", rest[0] if len(rest) > 1 else None
        if part == "token_adapter" or part.startswith("trainable_tokens_"):
            return ".".join(parts[:index]), "trainable_tokens_delta", "", None
        if method.owns(part) or part.startswith("lora_"):
            # Several parameters of one module nest their adapters: `experts.base_layer.lora_A` is one of `experts` as well.
            return (".".join(p for p in parts[:index] if p != "base_layer"), part, *_tail(part, rest))
    return ".".join(parts[:-1]), "", parts[-1], None


def _tail(role: str, rest: list[str]) -> tuple[str, str | None]:
    """What follows a role: nothing, ``weight``, an adapter's name, or a name and ``weight``."""
    if not _NAMED.match(role) or not rest or (len(rest) == 1 and rest[0] in _TAILS):
        return ".".join(rest), None
    if len(rest) > 1 and rest[-1] in _TAILS:
        return rest[-1], ".".join(rest[:-1])
    return "", ".".join(rest)
