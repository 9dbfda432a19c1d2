"""From what the user typed to the adapters that are meant."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from loradoctor.checkpoint import adapter_config, neighbours, weights
from loradoctor.checkpoint.hub_cache import MAIN, cached_snapshot

_DEPTH = 5
"""How far below an argument adapters are looked for: output/run/checkpoint-N/name is four."""
_MARKERS = (adapter_config.NAME, *weights.NAMES)
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".ckpt")
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}(@[\w.][\w./-]{,199})?")
_SKIPPED = frozenset({".git", ".venv", "venv", "node_modules", "__pycache__", ".cache"})


class TargetError(ValueError):
    """The argument names nothing that can be checked; the text is one line for the user."""


@dataclass(frozen=True, slots=True)
class Place:
    """One adapter: ``path`` as printed, and the weights file when the user named one."""

    path: str
    directory: Path
    weights: Path | None = None


def places(targets: Iterable[str], *, online: bool = False) -> tuple[Place, ...]:
    """The adapters that ``targets`` mean, each directory once, in the order of the arguments. Raises :class:`TargetError`."""
    found: dict[tuple[str, str], Place] = {}
    for target in targets:
        for place in _resolve(target, online=online):
            named = place.weights.name if place.weights is not None and place.weights.name not in weights.NAMES else ""
            found.setdefault((os.path.realpath(place.directory), named), place)
    return tuple(found.values())


def _resolve(target: str, *, online: bool) -> list[Place]:
    path = Path(target)
    try:
        if path.is_dir():
            below = _search(target, path, _DEPTH)
            below = below or _unusual(target, path)
            if below:
                return below
            raise TargetError(_nothing_in(target, path))
        if path.exists():
            return [_file(target, path)]
    except OSError as error:
        raise TargetError(f"`{target}` cannot be read: {(error.strerror or str(error)).lower()}") from error
    if _HUB_ID.fullmatch(target):
        cached = _snapshot(target, online=online)
        if cached is not None:
            return _search(str(cached), cached, 1) or [Place(str(cached), cached)]
        raise TargetError(f"`{target}` is neither a path nor in the local Hugging Face cache; `--online` permits fetching it")
    raise TargetError(f"`{target}` does not exist")


def _file(target: str, path: Path) -> Place:
    if not path.is_file():
        raise TargetError(f"`{target}` is neither a directory nor a regular file")
    directory = path.parent
    shown = os.path.dirname(target) or "."  # noqa: PTH120 -- pathlib would drop the leading ./ that the user typed
    if path.name in _MARKERS:
        # A config and its weights are one adapter: pre-commit passes them as two arguments.
        return Place(shown, directory)
    if path.suffix in _WEIGHTS:
        return Place(shown, directory, path)
    endings = ", ".join(f"`{e}`" for e in _WEIGHTS)
    raise TargetError(f"`{target}` is not an adapter: name a directory, `adapter_config.json`, or weights ({endings})")


def _unusual(target: str, directory: Path) -> list[Place]:
    """What else in a directory is worth a check: another tool's files, a checkpoint in parts, adapter tensors in a model."""
    found = neighbours.look(directory, weights.read)
    if found.path is not None:
        return [Place(target, directory)]
    cause = found.fault.data["cause"] if found.fault is not None else ""
    if cause == "several":
        return [Place(target, directory, p) for p in neighbours.loose_adapters(directory, weights.read)]
    return [Place(target, directory)] if cause in ("partitioned", "inside-a-model") else []


def is_adapter(directory: Path) -> bool:
    """Whether PEFT would look for an adapter here, or another tool has left one."""
    if any((directory / name).is_file() for name in _MARKERS):
        return True
    return any(neighbours.is_shard(p.name) or neighbours.is_other_tools(p.name) for p in directory.iterdir())


def _search(shown: str, directory: Path, depth: int) -> list[Place]:
    """The adapter here and its named siblings below, or the adapters further down."""
    try:
        here = is_adapter(directory)
    except OSError:
        return []  # a directory below the argument that cannot be listed; the argument itself was listed before
    found = [Place(shown, directory)] if here else []
    if depth == 0:
        return found
    try:
        children = sorted(p for p in directory.iterdir() if p.is_dir() and p.name not in _SKIPPED)
    except OSError:
        return found
    for child in children:
        # Beside an adapter, `checkpoint-500/` is another state of the same training: not what the user pointed at.
        if here and (child.name.startswith("checkpoint-") or not (child / adapter_config.NAME).is_file()):
            continue
        found += _search(f"{shown.rstrip('/')}/{child.name}", child, 0 if here else depth - 1)
    return found


def _nothing_in(target: str, directory: Path) -> str:
    names = {p.name for p in directory.iterdir()}
    if "config.json" in names:
        return f"`{target}` is a full model, not an adapter: there is no `adapter_config.json` in it"
    if any(n.endswith(".safetensors") for n in names):
        return f"`{target}` has no `adapter_config.json`: name the `.safetensors` file itself to check it alone"
    return f"there is no adapter in `{target}` or below"


def _snapshot(reference: str, *, online: bool) -> Path | None:
    """The snapshot of a hub repository (`org/name`, `org/name@revision`): fetched when allowed, else from the cache."""
    if online:
        from loradoctor.checkpoint.hub_adapter import fetched
        from loradoctor.oracle.files.hub import Unavailable

        try:
            return fetched(reference)
        except Unavailable as error:
            raise TargetError(f"`{reference}` cannot be had from the hub: {error}") from error
    name, _, revision = reference.partition("@")
    return cached_snapshot(name, revision or MAIN)
