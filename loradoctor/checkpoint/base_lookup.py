"""Where the base model of an adapter is: the directory or id the user insists on, or the one its config names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from loradoctor.checkpoint.hub_cache import MAIN, cached_snapshot, is_cached, is_revision
from loradoctor.checkpoint.layout import TargetError
from loradoctor.checkpoint.opening import opened
from loradoctor.oracle.files.hub import REFERENCE
from loradoctor.oracle.files.instead import instead

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint
    from loradoctor.checkpoint.run import CheckOptions

_MARKERS = ("config.json", "model_index.json")
_CONFIG_LIMIT = 1 << 20


def find(checkpoint: Checkpoint, options: CheckOptions) -> tuple[str | None, str]:
    """The directory, or with ``online`` the hub id (`org/name`, `org/name@revision`), of the base that ``options`` mean.

    None and the reason when there is none. Raises :class:`TargetError` when the user insists on one that cannot be had.
    """
    insisted = options.base != "auto"
    try:
        return _insisted(checkpoint, options) if insisted else _named(checkpoint, online=options.online)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if insisted:
            raise TargetError(f"the base `{options.base}` cannot be read: {reason}") from error
        return None, f"the base that the config names cannot be read: {reason}"


def _insisted(checkpoint: Checkpoint, options: CheckOptions) -> tuple[str, str]:
    asked = options.base
    if os.path.isdir(asked):  # noqa: PTH112 -- unlike pathlib's, it takes names that no file can have
        if reason := _no_model(Path(asked)):
            raise TargetError(f"`{asked}` is not a base model: {reason}")
        return str(Path(asked).resolve()), ""
    if os.path.isfile(asked):  # noqa: PTH113
        raise TargetError(f"`{asked}` is a file: `--base` takes the directory of a model, or its id")
    name, revision = _reference(asked, checkpoint)
    if not name:
        raise TargetError(f"the base `{asked}` does not exist")
    found, reason = _by_id(name, revision, online=options.online)
    if found is None:
        raise TargetError(f"the base `{asked}` {reason}; `--online` permits fetching it")
    return found, ""


def _named(checkpoint: Checkpoint, *, online: bool) -> tuple[str | None, str]:
    """The base that the config names, when it is to be had; else None and why not."""
    named = checkpoint.config.base if checkpoint.config is not None else None
    if not named:
        return None, "the config names no base model; `--base` says which one it is"
    directory = checkpoint.directory.resolve()
    last = Path(named.replace("\\", "/")).name
    places = [Path(named), directory / named]
    places += [directory.parent / last, directory.parent.parent / last] if last not in ("", ".", "..") else []
    for place in places:
        try:
            if not _no_model(place):
                return str(place.resolve()), ""
        except (OSError, ValueError):
            continue
    name, revision = _reference(named, checkpoint)
    found, missing = _by_id(name, revision, online=online) if name else (None, "is not on this machine")
    if found is not None:
        return found, ""
    if os.path.isdir(named):  # noqa: PTH112
        return None, f"the base that the config names, `{named}`, is not a base model: {_no_model(Path(named))}"
    return None, f"the base model `{named}` {missing}; `--base DIR` names a copy" + (", `--online` fetches it" if name else "")


def _by_id(name: str, revision: str, *, online: bool) -> tuple[str | None, str]:
    """The snapshot of a repository, or its reference when the hub may be asked; else None and what the cache lacks."""
    snapshot = cached_snapshot(name, revision)
    reason = _no_model(snapshot) if snapshot is not None else ""
    if snapshot is not None and not reason:
        return str(snapshot), ""
    if online:
        return (name if revision == MAIN else f"{name}@{revision}"), ""
    if snapshot is not None:
        return None, f"is in the local cache, but {reason}"
    if is_cached(name):
        return None, f"is in the local cache, but not at revision `{revision}`"
    return None, "is not on this machine"


def _reference(text: str, checkpoint: Checkpoint) -> tuple[str, str]:
    """Name and revision of a hub reference, the revision of the adapter's config for the base it names; empty for anything else."""
    match = REFERENCE.fullmatch(text)
    if match is None or match["name"] in (".", "..") or ".." in text:
        return "", ""
    revision = match["revision"]
    config = checkpoint.config
    if revision is None and config is not None and config.base == text and is_revision(config.get("revision")):
        revision = str(config.get("revision"))
    return match["name"], revision or MAIN


def _no_model(directory: Path) -> str:
    """Why a directory is not a model of transformers or a diffusion pipeline, empty for one. Raises OSError or ValueError for odd paths."""
    if any((directory / name).is_file() for name in _MARKERS):
        return ""
    names = [path.name for path in directory.iterdir()]
    told = instead(names)
    if "adapter_config.json" in names and (base := _base_of(directory / "adapter_config.json")):
        told += f", of `{base}`"
    return f"there is no `config.json` in it{told}"


def _base_of(config: Path) -> str:
    try:
        with opened(config) as file:
            raw = json.loads(file.read(_CONFIG_LIMIT))
        found = raw.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""
