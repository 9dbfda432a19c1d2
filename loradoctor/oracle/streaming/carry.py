"""What belongs to a merged model beside its weights and configs: the tokenizer, processors, templates and licences."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

_TOKENIZER = re.compile(
    r"tokenizer.*\.(json|model|jinja)|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|.*\.(spm|tiktoken|bpe)"
    r"|spiece\.model|sentencepiece.*\.model|source\.spm|target\.spm|tekken\.json|chat_template.*\.(jinja|json)|additional_chat_templates",
    re.IGNORECASE,
)
"""what `save_pretrained` of a tokenizer writes: these stay together, from the adapter when it has a tokenizer"""
_PROCESSOR = re.compile(r"(.*_)?(pre)?processor_config\.json", re.IGNORECASE)
_EXTRAS = re.compile(r"(.*[-_.])?(licen[cs]e|notice|use_policy|copying)([-_.].*)?|modules\.json|config_sentence_transformers\.json", re.IGNORECASE)
_DIRECTORIES = re.compile(r"additional_chat_templates|\d+_[A-Z]\w*")
"""templates, and the modules of sentence-transformers, which are a config and at most a small file of weights"""
_HAS_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_SIZE = 256 * 2**20


def carried(adapter: Path, base: Path) -> Iterator[tuple[Path, str]]:
    """(file, its relative name in the merged model), every name once."""
    own = has_tokenizer(adapter)
    found = {name: path for path, name in _files(base) if "/" in name or _belongs(path.name) or (not own and _TOKENIZER.fullmatch(path.name))}
    found.update({name: path for path, name in _files(adapter) if _is_template(name) or (own and _is_own(path.name))})
    yield from ((path, name) for name, path in sorted(found.items()))


def _belongs(name: str) -> bool:
    return bool(_PROCESSOR.fullmatch(name) or _EXTRAS.fullmatch(name))


def _is_template(name: str) -> bool:
    return name.startswith(("chat_template", "additional_chat_templates"))


def _is_own(name: str) -> bool:
    return bool(_TOKENIZER.fullmatch(name) or _PROCESSOR.fullmatch(name))


def goes_along(name: str) -> bool:
    """Whether a file of a base's repository, by its name there, is among what is :func:`carried`."""
    directory, _, last = name.rpartition("/")
    if directory:
        return bool(_DIRECTORIES.fullmatch(directory))
    return _belongs(last) or bool(_TOKENIZER.fullmatch(last))


def has_tokenizer(directory: Path) -> bool:
    """Whether a tokenizer is saved there."""
    return any((directory / name).is_file() for name in _HAS_TOKENIZER)


def carry(adapter: Path, base: Path, to: Path) -> list[str]:
    """Copy what is :func:`carried` into ``to``, but nothing that is there already; the names of what was copied. Raises OSError."""
    copied = []
    for path, name in carried(adapter, base):
        target = to / name
        if target.exists():
            continue
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
        copied.append(name)
    return copied


def _files(directory: Path) -> Iterator[tuple[Path, str]]:
    if not directory.is_dir():
        return
    for path in sorted(directory.iterdir()):
        if path.is_dir() and _DIRECTORIES.fullmatch(path.name) and not path.is_symlink():
            yield from ((inner, f"{path.name}/{inner.name}") for inner in sorted(path.iterdir()) if _plain(inner))
        elif _plain(path):
            yield path, path.name


def _plain(path: Path) -> bool:
    """A file of reasonable size in its own directory, or a link into the blobs of the hub's cache."""
    if not path.is_file() or path.stat().st_size > _SIZE or path.suffix in (".py", ".bin", ".pt", ".pth", ".pkl"):
        return False
    target = Path(os.path.realpath(path))
    return not path.is_symlink() or target.parent.name == "blobs" or target.parent == path.parent.resolve()
