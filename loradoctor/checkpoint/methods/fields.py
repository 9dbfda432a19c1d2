"""The fields that each method's config has: their types and the releases that have them, from `config_fields.json`.

`tools/config_fields.py` writes that file from PEFT's sources.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

COMMON = frozenset(["auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type"])
"""What every config has."""

FORMER = frozenset({"enable_lora", "merge_weights", "runtime_config"})
"""Fields of earlier releases that mean nothing any more; PEFT drops them and nothing is lost."""


@dataclass(frozen=True, slots=True)
class Field:
    """``kinds`` are the JSON types PEFT declares: ``int``, ``null``, ``'none'`` for a literal, ``any``.

    ``since`` is the first release that has the field, ``until`` the first that has it no more.
    """

    kinds: tuple[str, ...]
    since: str
    until: str | None

    @property
    def choices(self) -> tuple[str, ...]:
        """The only strings allowed, when PEFT says which."""
        return () if {"str", "any"} & set(self.kinds) else tuple(k[1:-1] for k in self.kinds if k.startswith("'"))

    def takes(self, value: object) -> bool:
        """Whether ``value`` is of a kind that PEFT declares. Whole and other numbers stand for each other, as in Python."""
        if "any" in self.kinds:
            return True
        if isinstance(value, str):
            return "str" in self.kinds or any(k.startswith("'") for k in self.kinds)
        name = {bool: "bool", int: "int", float: "float", list: "list", dict: "dict", type(None): "null"}[type(value)]
        numbers = {"int", "float"} if name in ("int", "float") else {name}
        return bool(numbers & set(self.kinds))


@cache
def _data() -> tuple[str, Mapping[str, Mapping[str, tuple[str, str, str | None]]]]:
    raw = json.loads(Path(__file__).with_name("config_fields.json").read_text(encoding="utf-8"))
    return raw["release"], raw["methods"]


def newest() -> str:
    """The newest PEFT release that the table knows."""
    return _data()[0]


def release(version: object) -> tuple[int, ...] | None:
    """A release's number, comparable; None for what is none, a development version for instance, which has what comes next."""
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?:\.post\d{1,4})?", version) if isinstance(version, str) else None
    return tuple(int(n or 0) for n in match.groups()) if match else None


def is_newer(version: object) -> bool:
    """Whether ``version`` (of the PEFT that wrote a config) comes after the newest that the table knows; development versions may."""
    start = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", version) if isinstance(version, str) else None
    return start is not None and tuple(int(n or 0) for n in start.groups()) > (release(newest()) or ())


@cache
def fields(peft_type: str) -> Mapping[str, Field]:
    """The method's own fields in any release, by name; empty for an unknown method."""
    return {n: Field(tuple(kind.split("|")), since, until) for n, (kind, since, until) in _data()[1].get(peft_type, {}).items()}


def known(peft_type: str) -> frozenset[str]:
    """The fields of a method's config in all known releases, with those of every config; empty for an unknown method."""
    own = fields(peft_type)
    return COMMON | FORMER | own.keys() if own else frozenset()
