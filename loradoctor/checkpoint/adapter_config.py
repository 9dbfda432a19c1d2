"""`adapter_config.json`: the raw values, typed views of them, and where each key stands in the file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradoctor.checkpoint.fault import Fault, ReadError
from loradoctor.checkpoint.opening import opened
from loradoctor.diagnostic import Span

NAME = "adapter_config.json"
_LIMIT = 32 << 20
_LARGEST = 1 << 31


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """A parsed config. ``raw`` is the JSON object as written (the last of duplicate keys wins, as in PEFT)."""

    path: Path
    raw: Mapping[str, Any]
    text: str
    duplicates: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()

    def get(self, key: str, default: Any = None) -> Any:
        """The raw value, or ``default`` when the key is missing (a null is a value)."""
        return self.raw.get(key, default)

    @property
    def peft_type(self) -> str | None:
        """The method as spelled in the file."""
        value = self.raw.get("peft_type")
        return value if isinstance(value, str) else None

    @property
    def base(self) -> str | None:
        """``base_model_name_or_path``, None when missing, null or empty."""
        value = self.raw.get("base_model_name_or_path")
        return value if isinstance(value, str) and value else None

    @property
    def task_type(self) -> str | None:
        """``task_type`` as spelled in the file."""
        value = self.raw.get("task_type")
        return value if isinstance(value, str) else None

    @property
    def r(self) -> int:
        """The rank, PEFT's default of 8 when missing or not a positive integer."""
        value = self.raw.get("r", 8)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LARGEST else 8

    @property
    def alpha(self) -> float | None:
        """``lora_alpha``, PEFT's default of 8 when missing, None when not a number."""
        return number(self.raw.get("lora_alpha", 8))

    @property
    def modules_to_save(self) -> tuple[str, ...]:
        """Names of the modules that are saved whole; empty for null."""
        return strings(self.raw.get("modules_to_save"))

    def pattern(self, key: str) -> Mapping[str, Any]:
        """``rank_pattern`` or ``alpha_pattern``: empty when null or not an object."""
        value = self.raw.get(key)
        return value if isinstance(value, dict) else {}

    def flag(self, key: str) -> bool:
        """Whether a boolean field is set."""
        return bool(self.raw.get(key))

    def span(self, key: str) -> Span | None:
        """Where the last occurrence of a top-level ``key`` stands, as PEFT would take it; None when it is missing."""
        found = None
        for match in re.finditer(rf'"{re.escape(key)}"(?=\s*:)', self.text):
            found = match
        if found is None:
            return None
        line = self.text.count("\n", 0, found.start()) + 1
        column = found.start() - (self.text.rfind("\n", 0, found.start()) + 1) + 1
        return Span(line, column, line, column + len(found.group()))


def number(value: object) -> float | None:
    """``value`` as a float when it is a real number (a bool is not)."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def strings(value: object) -> tuple[str, ...]:
    """The strings of a list; a lone string counts as one; anything else is none."""
    if isinstance(value, str):
        return (value,)
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()


def read(path: Path) -> AdapterConfig:
    """Parse a config. Raises :class:`ReadError` (LD520) when there is nothing to parse and OSError when it cannot be read."""
    with opened(path) as file:
        data = file.read(_LIMIT + 1)
    if not data.strip():
        raise ReadError(_fault(path, f"`{path.name}` is empty", "PEFT stops with a JSON error", cause="empty"))
    if len(data) > _LIMIT:
        raise ReadError(_fault(path, f"`{path.name}` is larger than {_LIMIT >> 20} MB", "that is no adapter config", cause="too-large"))
    faults: list[Fault] = []
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
        faults.append(
            _fault(
                path,
                f"`{path.name}` starts with a byte order mark",
                "PEFT stops with `Unexpected UTF-8 BOM`: save the file as UTF-8 without one",
                cause="bom",
            )
        )
    seen: list[str] = []
    try:
        text = data.decode("utf-8")
        raw = json.loads(text, object_pairs_hook=_pairs(seen))
    except UnicodeDecodeError as error:
        message = f"`{path.name}` is not UTF-8: byte {error.start} is {data[error.start]:#04x}"
        raise ReadError(_fault(path, message, "PEFT cannot read it", cause="encoding")) from error
    except json.JSONDecodeError as error:
        message = f"`{path.name}` is not JSON: line {error.lineno}, column {error.colno}: {_lower(error.msg)}"
        raise ReadError(_fault(path, message, _hint(data), cause="syntax", line=error.lineno)) from error
    except (RecursionError, ValueError) as error:
        raise ReadError(
            _fault(path, f"`{path.name}` cannot be parsed: {type(error).__name__}", "PEFT cannot read it", cause="unparsable")
        ) from error
    if not isinstance(raw, dict):
        raise ReadError(
            _fault(path, f"`{path.name}` holds a {type(raw).__name__}, not an object", "PEFT cannot read it", cause="not-an-object")
        )
    return AdapterConfig(path, raw, text, tuple(dict.fromkeys(seen)), tuple(faults))


def _pairs(seen: list[str]) -> Any:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                seen.append(key)
            result[key] = value
        return result

    return build


def _hint(data: bytes) -> str:
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: fetch the file with `git lfs pull`"
    if b"<<<<<<<" in data and b">>>>>>>" in data:
        return "it holds a merge conflict"
    return "PEFT stops with a JSON error: restore the file, or write it again with `save_pretrained`"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _fault(path: Path, message: str, help_: str, **data: object) -> Fault:
    return Fault("unreadable-config", message, help_, file=path.name, data=data)
