"""An adapter on the hub: which files of its repository a check reads, and those fetched."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from loradoctor.checkpoint import adapter_config, neighbours, weights
from loradoctor.oracle.files.hub import Repository, Unavailable, at

_UNREAD = frozenset({"tokenizer.json", "vocab.json"})
"""large, and nothing a check looks into"""
_TOLD_BY = frozenset({"README.md", "training_args.bin"})
"""small files that say which tool wrote an adapter"""
_LOOSE = (".safetensors", ".gguf")
_MODEL = frozenset({"config.json", "model_index.json"})
_MOST = 16
"""adapters or loose files of one repository that are fetched"""


def fetched(reference: str) -> Path:
    """The snapshot's directory with the adapters of ``reference`` (`org/name`, `org/name@revision`) in it.

    Raises :class:`~loradoctor.oracle.files.hub.Unavailable`, also for a repository without an adapter.
    """
    repository = Repository.parse(reference)
    names = repository.listing()
    wanted = files(names)
    if not wanted:
        what = "it is a full model, not an adapter" if _MODEL.intersection(names) else "there is no adapter in it"
        raise Unavailable(f"{what}: it has no `{adapter_config.NAME}`")
    snapshot = repository.file(wanted[0]).parents[wanted[0].count("/")]
    pinned = at(snapshot) or repository  # the branch may move while we fetch
    for name in wanted[1:]:
        pinned.file(name)
    return snapshot


def files(names: Iterable[str]) -> list[str]:
    """Those of a repository's files that a check of its adapters reads: the one at the top and the named ones beside it."""
    by_folder: dict[str, list[str]] = {}
    for name in names:
        folder, _, last = name.rpartition("/")
        if "/" not in folder:
            by_folder.setdefault(folder, []).append(last)
    here = _is_adapter(by_folder.get("", []))
    below = sorted(f for f, inside in by_folder.items() if f and adapter_config.NAME in inside and not (here and f.startswith("checkpoint-")))
    wanted = [name for name in sorted(by_folder.get("", [])) if here and _is_read(name)]
    wanted += [f"{folder}/{name}" for folder in below[:_MOST] for name in sorted(by_folder[folder]) if _is_read(name)]
    if wanted or _MODEL.intersection(by_folder.get("", [])):
        return wanted
    return [name for name in sorted(by_folder.get("", [])) if name.endswith(_LOOSE)][:_MOST]


def _is_adapter(names: Iterable[str]) -> bool:
    return any(n in (adapter_config.NAME, *weights.NAMES) or neighbours.is_shard(n) or neighbours.is_other_tools(n) for n in names)


def _is_read(name: str) -> bool:
    if name in _TOLD_BY or name in weights.NAMES or neighbours.is_shard(name) or neighbours.is_other_tools(name):
        return True
    return name.endswith(".json") and not name.endswith(".index.json") and name not in _UNREAD
