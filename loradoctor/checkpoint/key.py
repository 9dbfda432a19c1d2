"""One tensor name taken apart: wrappers off, then module, role and what is odd about it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

from loradoctor.checkpoint.methods import Method
from loradoctor.checkpoint.methods.tables import table_of

PREFIX = "base_model.model."
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Components that torch.compile, FSDP and activation checkpointing put into module paths; no model has them of its own."""

PAIRED = frozenset({"lora_A", "lora_B"})
_NAMED = re.compile(r"lora_(?:A|B|E|embedding_A|embedding_B|magnitude_vector|diag)$")


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


_LEVELS = 500
"""Levels that a name is taken apart into; what is deeper is no module path and stays one piece."""


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
    parts = name.split(".", _LEVELS)
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
            return (".".join(p for p in parts[:index] if p != "base_layer"), part, *_tail(part, rest, method))
    return ".".join(parts[:-1]), "", parts[-1], None


def _tail(role: str, rest: list[str], method: Method) -> tuple[str, str | None]:
    """What follows a role: nothing, ``weight`` or an ending of the role's own, and before it perhaps an adapter's name."""
    if not rest or rest in (["weight"], ["bias"]) or (role.startswith("lora_") and not _NAMED.match(role)):
        return ".".join(rest), None
    tail = _legal(method.peft_type, role)
    for start in range(len(rest) + 1):
        ending = ".".join(rest[start:])
        if tail.fullmatch(ending):
            return ending, ".".join(rest[:start]) or None
    return ".".join(rest), None


@cache
def _legal(peft_type: str, role: str) -> re.Pattern[str]:
    own = next((pattern for start, pattern in table_of(peft_type).tails.items() if role.startswith(start)), "")
    return re.compile(rf"(?:(?:{own})(?:\.weight|\.bias)?|weight|bias|)")
