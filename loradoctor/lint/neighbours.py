"""The scripts beside a script: which of them could have written what stands at a path. Reads bytes, parses nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from loradoctor.lint import files

FILES = 400
"""Directories with more scripts than this are not read."""
SAVING = 12
"""Directories where more scripts than this save models are collections of examples, not the parts of one project."""
WRITERS = 3
"""A path that more scripts than this name is too general to mean one thing."""
_SCRIPT = 150_000
_NOTEBOOK = 4_000_000
_SAVES = re.compile(rb"save_pretrained|save_model|push_to_hub|torch\.save|save_file|Trainer\(").search
_STRING = re.compile(rb"[\"']([^\"'\\\n]{1,200})")
_IMPORT = re.compile(rb"^\s*\"?(?:from|import)\s+\.?([\w.]+)", re.MULTILINE)


@dataclass(frozen=True)
class Directory:
    """The scripts of one directory: by the last part of every path they could name, and what each imports."""

    names: tuple[str, ...] = ()
    naming: dict[bytes, list[str]] = field(default_factory=dict)
    writers: frozenset[str] = frozenset()
    imports: dict[str, frozenset[bytes]] = field(default_factory=dict)
    servers: frozenset[str] = frozenset()


_PUBLIC = re.compile(
    "meta-llama|mistralai|google|facebook|microsoft|openai|EleutherAI|Qwen|THUDM|bigscience|tiiuae|huggyllama|decapoda-research|"
    "NousResearch|HuggingFaceH4|HuggingFaceTB|HuggingFaceM4|TinyLlama|deepseek-ai|stabilityai|runwayml|unsloth|baichuan-inc|internlm|"
    "01-ai|lmsys|teknium|trl-lib|trl-internal-testing|hf-internal-testing|peft-internal-testing|ybelkada|distilbert|FacebookAI|openai-community"
)
"""Owners of base models: what is asked for under their names, no script beside has written."""


def writers(path: str, reader: str) -> tuple[str, ...]:
    """The scripts beside ``reader`` that save something and have the last part of ``path`` in a string.

    A script also counts when that string stands in a module beside it which it imports. None at all where there are too many
    to mean one thing, and in a collection of examples.
    """
    around = directory(str(Path(reader).parent))
    if len(around.writers) > SAVING or _PUBLIC.fullmatch(path.partition("/")[0]):
        return ()
    last = path.rpartition("/")[2].encode()
    named = around.naming.get(last, ())
    found = {name for name in named if name in around.writers}
    modules = {Path(name).stem.encode() for name in named if name not in around.writers}
    if modules:
        found |= {name for name in around.writers if not modules.isdisjoint(around.imports.get(name, ()))}
    found.discard(str(Path(reader)))
    return tuple(sorted(found)) if len(found) <= WRITERS else ()


def servers(path: str, writer: str) -> tuple[str, ...]:
    """The scripts beside ``writer`` that serve adapters with vLLM and have the last part of ``path`` in a string."""
    around = directory(str(Path(writer).parent))
    if len(around.writers) > SAVING:
        return ()
    named = around.naming.get(path.rpartition("/")[2].encode(), ())
    return tuple(name for name in named if name in around.servers and name != str(Path(writer)))


def directory(path: str) -> Directory:
    """What the scripts of a directory name; empty where there are too many or none can be read."""
    try:
        return _read_directory(path, Path(path).stat().st_mtime_ns)
    except OSError:
        return Directory()


@lru_cache(maxsize=256)
def _read_directory(path: str, _: int) -> Directory:
    try:
        names = sorted(str(p) for p in Path(path).iterdir() if p.name.endswith(files.SUFFIXES))
    except OSError:
        return Directory()
    if len(names) > FILES:
        return Directory(tuple(names))
    naming: dict[bytes, list[str]] = {}
    imports: dict[str, frozenset[bytes]] = {}
    saving, serving = set(), set()
    for name in names:
        data = _read(name)
        if b"LoRARequest(" in data:
            serving.add(name)
        if _SAVES(data):
            saving.add(name)
            imports[name] = frozenset(m.rpartition(b".")[2] for m in _IMPORT.findall(data))
        for last in {text.rstrip(b"/").rpartition(b"/")[2] for text in _STRING.findall(data)}:
            naming.setdefault(last, []).append(name)
    return Directory(tuple(names), naming, frozenset(saving), imports, frozenset(serving))


def _read(path: str) -> bytes:
    try:
        if Path(path).stat().st_size > (_SCRIPT if path.endswith(".py") else _NOTEBOOK):
            return b""
        return files.read(path)
    except OSError:
        return b""
