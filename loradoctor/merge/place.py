"""Names beside the output: what is not finished yet, what is being replaced, and the step that makes one the other."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

_PARTIAL = ".partial-"
_REPLACED = ".replaced-"
_KEY = re.compile(r"[0-9a-f]{12}")


def settle(directory: Path, output: Path) -> None:
    """Give the finished ``directory`` the name ``output``; what had it before goes once the new one stands. Raises OSError."""
    old = output.with_name(output.name + _REPLACED + directory.name.rpartition("-")[2])
    if output.is_dir() and not any(output.iterdir()):
        output.rmdir()
    if output.exists():
        output.rename(old)
    directory.rename(output)
    with contextlib.suppress(OSError):  # not every file system lets a directory be forced
        descriptor = os.open(output.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    directory.with_name(f"{directory.name}.journal").unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)


def recover(output: Path) -> None:
    """Undo a replacement that was cut off between its two renames, and clear away what one left behind."""
    for old in _beside(output, _REPLACED):
        if output.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(output)


def partial(output: Path) -> str:
    """The directory of an unfinished merge into ``output``; empty when there is none."""
    return next((str(path) for path in _beside(output, _PARTIAL)), "")


def _beside(output: Path, kind: str) -> list[Path]:
    """Directories that runs for ``output`` have left."""
    if not output.parent.is_dir():
        return []
    names = (path for path in output.parent.iterdir() if path.name.startswith(output.name + kind) and path.is_dir())
    return sorted(path for path in names if _KEY.fullmatch(path.name.removeprefix(output.name + kind)))


def left_behind(output: Path) -> str:
    """What to tell the user who has interrupted a merge."""
    found = partial(output)
    if not found:
        return "interrupted; nothing was written"
    return f"interrupted; what is done by now is kept in `{found}`, and the same command goes on from there"
