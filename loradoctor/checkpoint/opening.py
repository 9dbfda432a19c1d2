"""Opening files that lie in a directory somebody else filled: nothing there may make a check wait."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO


def opened(path: Path, *, buffering: int = -1) -> IO[bytes]:
    """``path`` for reading, when it is a regular file. Raises OSError; a pipe without a writer does not block."""

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a directory, `open` itself complains
            os.close(descriptor)
            raise OSError(errno.EINVAL, "Not a regular file", name)
        return descriptor

    return open(path, "rb", buffering=buffering, opener=opener)
