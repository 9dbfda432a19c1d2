"""Which modules a config targets, exactly as PEFT decides it.

Follows `check_target_module_exists` (peft/tuners/tuners_utils.py) and `get_pattern_key` (peft/utils/other.py); a property test
holds it against the installed PEFT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loradoctor.checkpoint import expression
from loradoctor.checkpoint.adapter_config import AdapterConfig

ALL_LINEAR = "all-linear"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``targeted`` is None when only the base model can tell; ``because`` names the config key that decided."""

    targeted: bool | None
    because: str


def decide(config: AdapterConfig, module: str) -> Verdict:
    """Whether ``config`` puts an adapter on the module called ``module`` (path in the base model).

    Raises ``re.error`` where PEFT would, for a pattern that does not compile, and where PEFT would hang.
    """
    if _excluded(config.get("exclude_modules"), module):
        return Verdict(targeted=False, because="exclude_modules")
    for name in config.modules_to_save:
        if expression.match(rf"(^|.*\.){name}($|\..*)", module):
            return Verdict(targeted=False, because="modules_to_save")
    targets = config.get("target_modules")
    if targets is None:
        parameters = config.get("target_parameters")
        if parameters is not None:
            return Verdict(targeted=_holds_parameter(parameters, module), because="target_parameters")
        return Verdict(targeted=None, because="target_modules")
    if isinstance(targets, str):
        if targets.lower() == ALL_LINEAR:
            return Verdict(targeted=None, because="target_modules")
        found: bool | None = expression.fullmatch(targets, module) is not None
    else:
        found = _in_list(targets, config.raw, module)
        if found is None:
            return Verdict(targeted=False, because="layers_to_transform")
    if not found and _holds_parameter(config.get("target_parameters"), module):
        return Verdict(targeted=True, because="target_parameters")
    return Verdict(targeted=found, because="target_modules")


def _excluded(exclude: Any, module: str) -> bool:
    if not isinstance(exclude, (str, list)) or not exclude:  # a value of the wrong kind is invalid-config-field's to tell
        return False
    if isinstance(exclude, str):
        return expression.fullmatch(exclude, module) is not None
    return _listed(exclude, module)


def _listed(names: Sequence[Any], module: str) -> bool:
    return module in names or any(module.endswith(f".{n}") for n in names)


def _in_list(targets: Sequence[Any], raw: Mapping[str, Any], module: str) -> bool | None:
    """Membership; None when the name fits and its layer does not. A full name escapes the layer filter, as in PEFT."""
    if module in targets:
        return True
    if not any(module.endswith(f".{t}") for t in targets):
        return False
    layers = raw.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    index = layer_index(module, raw.get("layers_pattern"))
    wanted = [layers] if isinstance(layers, int) else layers
    return True if index is not None and index in wanted else None


def layer_index(module: str, patterns: Any = None) -> int | None:
    """The layer number in a module path: the first numbered component, below one of ``patterns`` when given."""
    listed = [patterns] if isinstance(patterns, str) else patterns
    if not listed:
        match = re.match(r".*?\.[^.]*\.(?P<idx>\d+)\.", module)
    else:
        tried = (expression.match(rf"(?:^|.*?\.){p}\.(?P<idx>\d+)\.", module) for p in listed)
        match = next((m for m in tried if m), None)
    return int(match["idx"]) if match else None


def _holds_parameter(parameters: Any, module: str) -> bool:
    """Whether one of ``target_parameters`` is a parameter of this module."""
    if not isinstance(parameters, list):
        return False
    owners = [str(p).rpartition(".")[0] for p in parameters]
    return any(owner == "" or module == owner or module.endswith(f".{owner}") for owner in owners)


def pattern_key(patterns: Mapping[str, Any], module: str) -> str | None:
    """The first key of ``rank_pattern`` or ``alpha_pattern`` that applies to ``module``, in the order of the file."""
    for key in patterns:
        if expression.match(rf"(.*\.)?({key})$", module):
            return key
    return None
