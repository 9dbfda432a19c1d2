"""What of a merge is done and safe on disk, so that a run after an interruption goes on from there."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

fcntl: Any = None
with contextlib.suppress(ImportError):  # Windows: there a second run fails when it opens the files of the first
    import fcntl

PATIENCE = 30.0
"""seconds to wait for the process of an interrupted run, which may have to finish a layer before it notices"""


class Busy(Exception):
    """Another process writes this merge."""


class Journal:
    """Lines of JSON beside the work directory: task number → digest of its bytes. Locked for as long as it is open."""

    def __init__(self, path: Path, patience: float = PATIENCE) -> None:
        """Open or create it; wait ``patience`` seconds for its lock. Raises :class:`Busy` or OSError."""
        self.path = path
        self._file = path.open("a+", encoding="utf-8")
        try:
            _lock(self._file.fileno(), patience)
        except BaseException:
            self._file.close()
            raise
        self.done = self._read()
        self._waiting: list[str] = []

    def forget(self) -> None:
        """Begin anew: what the journal speaks of is gone."""
        self._file.truncate(0)
        self.done.clear()

    def note(self, task: int, digest: str) -> None:
        """Remember that ``task`` is written; it counts once it is committed."""
        self._waiting.append(json.dumps({"task": task, "sha256": digest}))

    def noted(self) -> int:
        """How much has been noted and not committed."""
        return len(self._waiting)

    def commit(self, count: int) -> None:
        """Write the first ``count`` that wait. The bytes they speak of must be on disk before."""
        if count:
            self._file.write("".join(f"{line}\n" for line in self._waiting[:count]))
            del self._waiting[:count]  # in place: another thread adds to it
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the lock."""
        self._file.close()

    def _read(self) -> dict[int, str]:
        self._file.seek(0)
        done: dict[int, str] = {}
        for line in self._file:
            # The last line may be torn.
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                done[int(entry["task"])] = str(entry["sha256"])
        self._file.seek(0, os.SEEK_END)
        if self._file.tell():
            self._file.write("\n")
        return done


def _lock(descriptor: int, patience: float) -> None:
    if fcntl is None:
        return
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Busy from None
            time.sleep(0.1)
        else:
            return
