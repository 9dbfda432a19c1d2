"""Fields that the other steps read: a value of another kind than PEFT writes ends the repair, for nobody knows what was meant."""

from __future__ import annotations

import re
from collections.abc import Callable

from loradoctor.repair.draft import Draft


def _names(value: object) -> bool:
    return value is None or isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))


def _numbers(value: object) -> bool:
    listed = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(v, int) and not isinstance(v, bool) for v in listed)


def _patterns(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, dict) and all(_compiles(k) and isinstance(v, (int, float, list)) for k, v in value.items())


def _compiles(pattern: str) -> bool:
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _saved(value: object) -> bool:
    return _names(value) and all(_compiles(v) for v in ([value] if isinstance(value, str) else value if isinstance(value, list) else []))


def _kind(value: object) -> bool:
    return value is None or isinstance(value, str)


_KINDS: dict[str, Callable[[object], bool]] = {
    "peft_type": _kind,
    "task_type": _kind,
    "bias": _kind,
    "target_modules": _names,
    "exclude_modules": _names,
    "target_parameters": _names,
    "modules_to_save": _saved,
    "layers_to_transform": _numbers,
    "layers_pattern": _names,
    "rank_pattern": _patterns,
    "alpha_pattern": _patterns,
}


def soundness(draft: Draft) -> None:
    """Refuse where a field is of another kind than PEFT writes it."""
    for field, fits in _KINDS.items():
        if not fits(draft.config.get(field)):
            draft.refuse(f"`{field}` is {str(draft.config[field])[:60]!r}, which PEFT cannot read", "its value in the training")
