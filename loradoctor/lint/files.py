"""Which files a lint run reads, and which of them can be left unparsed. Imports nothing heavy: a clean tree ends here."""
# ruff: noqa: PTH100, PTH110, PTH116, PTH118, PTH120
# Paths are printed as they were reached and links are not resolved; pathlib would normalise both.

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from loradoctor.config import Settings

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

SUFFIXES = (".py", ".ipynb")
DOCUMENTS = (".md", ".mdx", ".rst", ".markdown")
SKIPPED_DIRECTORIES = frozenset(
    [
        *(".bzr", ".cache", ".direnv", ".eggs", ".git", ".hg", ".idea", ".ipynb_checkpoints", ".loradoctor_cache", ".mypy_cache", ".nox"),
        *(".pytest_cache", ".pytype", ".ruff_cache", ".svn", ".tox", ".venv", ".vscode", "__pycache__", "__pypackages__"),
        *("_build", "build", "dist", "node_modules", "site-packages", "venv"),
    ]
)

_STEMS = (b"peft", b"lora", b"adapter", b"merge_and_unload", b"kbit_training", b"unsloth", b"torch.save(")
"""Every relevant word holds one of these in small letters. Searching for them costs a fifth of what the words themselves do."""

RELEVANT_WORDS = tuple(
    word.encode()
    for word in """
    LoraConfig LoRAConfig lora_alpha load_lora_weights merge_and_unload kbit_training load_adapter add_adapter set_adapter
    disable_adapter enable_adapter delete_adapter adapter_model adapter_config unsloth loradoctor
    """.split()
)
"""No rule can fire in a file that has none of these, does not speak of PEFT in letters of any size, and saves no model for
another one to load. A word that is part of another one is left out."""

# Files with these words build, load or take apart the models that another file goes on with.
_wraps_models = re.compile(rb"get_peft_model|PeftModel|PeftConfig|LoraConfig|merge_and_unload|prepare_model_for|PeftMixed").search

COPIES = {name: tuple(f"{inside}{name}/__init__.py" for inside in ("", "src/", f"{name}/src/")) for name in ("peft", "transformers", "trl")}
"""Libraries that projects carry in a copy of their own, and that are themselves linted: where the source may say its version."""


def relevant(data: bytes) -> bool:
    """Whether any rule could have something to say about a file with these bytes."""
    small = data.lower()
    for stem in _STEMS:  # not `any`: a generator would cost as much as the search
        if stem in small:
            break
    else:
        return False
    if b"peft" in small or any(word in data for word in RELEVANT_WORDS):
        return True
    return b"torch.save(" in data and b"load_state_dict(" in data and b"from_pretrained" in data


def wraps_models(data: bytes) -> bool:
    """Whether an import of a file with these bytes is worth following."""
    return _wraps_models(data) is not None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A path that was asked for or reached and cannot be read, and why, for a reader."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """The files to read, in the order of the arguments and sorted within each, and what stood in the way."""

    files: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]


def find(paths: Iterable[str], settings: Settings) -> Found:
    """Every file that ``paths`` mean.

    A file that is named is always taken. A directory is searched for Python files and notebooks; links to directories are
    not followed, so a loop of links ends the search rather than the process. Directories of tools and builds,
    ``settings.exclude`` and, with ``settings.respect_gitignore``, what ``.gitignore`` files name are left out.
    """
    files: dict[str, None] = {}
    unreadable: list[Unreadable] = []
    for argument in paths:
        try:
            mode = os.stat(argument).st_mode
        except (OSError, ValueError) as error:
            unreadable.append(Unreadable(argument, reason(error)))
            continue
        if stat.S_ISDIR(mode):
            search = _Search(settings, unreadable)
            files.update(dict.fromkeys(search.directory(os.path.normpath(argument), search.above(argument))))
        elif stat.S_ISREG(mode):
            files[os.path.normpath(argument)] = None
        else:
            unreadable.append(Unreadable(argument, "it is neither a file nor a directory"))
    return Found(tuple(files), tuple(unreadable))


def read(path: str) -> bytes:
    """The bytes of a file; raises OSError."""
    # Thousands of files are read that turn out not to matter: `open` costs three times as much.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        parts = []
        while part := os.read(number, max(os.fstat(number).st_size + 1, 1 << 16)):
            parts.append(part)
    finally:
        os.close(number)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def reason(error: Exception) -> str:
    """What an exception of the operating system means, for a reader."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file or directory"
    if isinstance(error, PermissionError):
        return "permission is denied"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]


def ignored_codes(path: str, settings: Settings) -> frozenset[str]:
    """The codes that ``per-path-ignores`` silence for this path."""
    return frozenset(
        code
        for pattern, codes in settings.per_path_ignores.items()
        if _spec((pattern,)).match_file(_below(settings.root, path))
        for code in codes
    )


@cache
def _spec(patterns: tuple[str, ...]) -> GitIgnoreSpec:
    # pathspec costs as much as starting Python does: most runs have no pattern to match.
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(patterns)


def _below(root: str | None, path: str) -> str:
    absolute = os.path.abspath(path)
    base = os.path.abspath(root or os.curdir)
    inside = absolute.startswith(os.path.join(base, ""))
    below = os.path.relpath(absolute, base) if inside else os.path.splitdrive(absolute)[1].lstrip(os.sep)
    return below.replace(os.sep, "/")


# The `.gitignore` files that hold for a directory, outermost first: where each stands (absolute) and what it says.
_Ignores = tuple[tuple[str, "GitIgnoreSpec"], ...]


class _Search:
    """One walk below one directory."""

    def __init__(self, settings: Settings, unreadable: list[Unreadable]) -> None:
        self.settings = settings
        self.unreadable = unreadable
        self.suffixes = SUFFIXES + DOCUMENTS if settings.documents else SUFFIXES

    def above(self, directory: str) -> _Ignores:
        """What the ``.gitignore`` files between the repository's root and ``directory`` (not included) say."""
        if not self.settings.respect_gitignore:
            return ()
        here = os.path.abspath(directory)
        parents = []
        while not os.path.exists(os.path.join(here, ".git")):
            parent = os.path.dirname(here)
            if parent == here:
                return ()
            parents.append(parent)
            here = parent
        ignores: _Ignores = ()
        for parent in reversed(parents):
            ignores += self.gitignore(parent)
        return ignores

    def gitignore(self, directory: str) -> _Ignores:
        try:
            lines = read(os.path.join(directory, ".gitignore")).decode(errors="replace").splitlines()
        except OSError:
            return ()
        return ((os.path.abspath(directory), _spec(tuple(lines))),)

    def directory(self, directory: str, ignores: _Ignores) -> Iterator[str]:
        try:
            with os.scandir(directory) as entries:
                ordered = sorted(entries, key=lambda e: e.name)
        except OSError as error:
            self.unreadable.append(Unreadable(directory, reason(error)))
            return
        if self.settings.respect_gitignore and any(e.name == ".gitignore" for e in ordered):
            ignores += self.gitignore(directory)
        prefix = "" if directory == os.curdir else directory
        for entry in ordered:
            path = os.path.join(prefix, entry.name)
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in SKIPPED_DIRECTORIES and not self.excluded(path + "/", ignores):
                    yield from self.directory(path, ignores)
            elif entry.name.endswith(self.suffixes) and entry.is_file() and not self.excluded(path, ignores):
                yield path

    def excluded(self, path: str, ignores: _Ignores) -> bool:
        slash = "/" if path.endswith("/") else ""
        if self.settings.exclude and _spec(self.settings.exclude).match_file(_below(self.settings.root, path) + slash):
            return True
        absolute = os.path.abspath(path) if ignores else ""
        for base, spec in reversed(ignores):
            verdict = spec.check_file(os.path.relpath(absolute, base).replace(os.sep, "/") + slash).include
            if verdict is not None:
                return bool(verdict)
        return False
