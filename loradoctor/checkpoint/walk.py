"""Every adapter below a directory, found while the tree is walked: nothing is kept but the directories still to visit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loradoctor.checkpoint import adapter_config, neighbours, weights
from loradoctor.checkpoint.layout import Place, TargetError

SKIPPED = frozenset(
    """
.git .hg .svn .bzr .jj .venv venv .env .tox .nox .eggs node_modules site-packages __pycache__ .cache .mypy_cache .ruff_cache .pytest_cache
.ipynb_checkpoints .loradoctor_cache .Trash
""".split()
)
"""Directories of tools: version control, environments, caches. The one that was named itself is searched whatever its name."""

_MARKERS = frozenset({adapter_config.NAME, *weights.NAMES})
_ENVIRONMENT = "pyvenv.cfg"
_MODEL = frozenset({"model.safetensors", "model.safetensors.index.json"})
_LOOSE = (".safetensors", ".gguf")
"""Formats whose header tells at once whether a file of any name holds an adapter."""
_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Unlisted:
    """A directory that could not be listed, and why."""

    path: str
    reason: str


def walk(roots: Iterable[str]) -> Iterator[Place | Unlisted]:
    """The adapters below ``roots``, in the order of the paths, each directory once however many links lead to it.

    Raises :class:`TargetError` for a root that is no directory.
    """
    listed = list(roots)
    for root in listed:
        if not Path(root).is_dir():
            reason = "is not a directory" if Path(root).exists() else "does not exist"
            raise TargetError(f"`{root}` {reason}; `-r` searches directories")
    entered: list[str] = []
    for root in listed:
        real = os.path.realpath(root)
        if not _below(real, entered):
            entered.append(real)
            yield from _walk(root, entered)


def _walk(root: str, entered: list[str]) -> Iterator[Place | Unlisted]:
    pending = [(root, Path(root), 0)]
    while pending:
        shown, directory, depth = pending.pop()
        try:
            with os.scandir(directory) as entries:
                files, below = _sorted_out(entries, entered)
        except OSError as error:
            yield Unlisted(shown, (error.strerror or str(error)).lower())
            continue
        if depth and _ENVIRONMENT in files:
            continue
        yield from _here(shown, directory, files)
        if depth < _DEPTH:
            pending += [(f"{shown.rstrip('/')}/{name}", directory / name, depth + 1) for name in sorted(below, reverse=True)]


def _sorted_out(entries: Iterable[os.DirEntry[str]], entered: list[str]) -> tuple[set[str], list[str]]:
    """The names of files, and of the directories to visit."""
    files: set[str] = set()
    below: list[str] = []
    for entry in entries:
        try:
            if not entry.is_dir():
                files.add(entry.name)
            elif entry.name not in SKIPPED and (not entry.is_symlink() or _enter(entry.path, entered)):
                below.append(entry.name)
        except OSError:
            continue  # a link that leads nowhere, or around in a circle
    return files, below


def _enter(link: str, entered: list[str]) -> bool:
    """Whether a link leads out of everything that is searched anyway; if so it is searched from now on."""
    real = os.path.realpath(link)
    if _below(real, entered):
        return False
    entered.append(real)
    return True


def _below(real: str, entered: Sequence[str]) -> bool:
    return any(real == other or real.startswith(f"{other.rstrip('/')}/") for other in entered)


def _here(shown: str, directory: Path, files: set[str]) -> Iterator[Place]:
    """The adapters in one directory: PEFT's or another tool's, else each loose file that holds one."""
    if files & _MARKERS or any(neighbours.is_shard(n) or neighbours.is_other_tools(n) for n in files):
        yield Place(shown, directory)
        return
    if files & _MODEL and neighbours.tensors_in_model(directory, weights.read):
        yield Place(shown, directory)
        return
    for name in sorted(n for n in files if n.endswith(_LOOSE) and n not in _MODEL and not n.startswith("model-")):
        path = directory / name
        if path.is_file() and neighbours.holds_adapter(path, weights.read):
            yield Place(shown, directory, path)
