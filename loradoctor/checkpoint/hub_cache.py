"""The local cache of the Hugging Face Hub, read by its documented layout: `models--ORG--NAME/{refs,snapshots,blobs}`."""

from __future__ import annotations

import os
import re
from pathlib import Path

MAIN = "main"
_REVISION = re.compile(r"[\w.][\w./-]{,199}")


def hub_cache() -> Path:
    """The cache's directory, by the environment variables that huggingface_hub reads (constants.py)."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return _expanded(cache)
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return _expanded(home) / "hub"


def is_revision(text: object) -> bool:
    """Whether ``text`` may be a branch, tag or commit, and stays inside the directory it is looked up in."""
    return isinstance(text, str) and _REVISION.fullmatch(text) is not None and ".." not in text


def cached_snapshot(repository: str, revision: str = MAIN) -> Path | None:
    """Where the files of ``repository`` at ``revision`` (branch, tag or commit) lie; None when they are not in the cache.

    Without a record of what `main` is, the newest snapshot is taken for it: somebody has fetched a commit by its hash.
    """
    root = hub_cache() / f"models--{repository.replace('/', '--')}"
    if not is_revision(revision):
        return None
    commit = _recorded(root / "refs" / revision) or revision
    if is_revision(commit) and (root / "snapshots" / commit).is_dir():
        return root / "snapshots" / commit
    return _newest(root / "snapshots") if revision == MAIN else None


def is_cached(repository: str) -> bool:
    """Whether the cache has any snapshot of ``repository``."""
    return _newest(hub_cache() / f"models--{repository.replace('/', '--')}" / "snapshots") is not None


def _recorded(reference: Path) -> str:
    try:
        return reference.read_text(encoding="utf-8").strip() if reference.is_file() else ""
    except (OSError, ValueError):
        return ""


def _newest(snapshots: Path) -> Path | None:
    try:
        return max((p for p in snapshots.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, default=None)
    except OSError:
        return None


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()
