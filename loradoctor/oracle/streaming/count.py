"""How far a long task is, in bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

EVERY = 0.2
"""seconds between two reports"""

Progress = Callable[..., None]


class Count:
    """Turns bytes into reports, a few a second, from whichever thread they come."""

    def __init__(self, progress: Progress, total: int) -> None:
        """``progress`` is called with a text, ``done`` and ``of``; ``total`` is in bytes."""
        self._progress, self._total = progress, total
        self._done, self._text, self._last = 0, "writing", 0.0
        self._turn = threading.Lock()

    def advance(self, count: int) -> None:
        """``count`` more bytes are dealt with."""
        with self._turn:
            self._done += count
            self._report()

    def say(self, text: str) -> None:
        """What is being done now."""
        with self._turn:
            self._text = text
            self._report()

    def end(self, text: str) -> None:
        """Everything is dealt with, and ``text`` is next."""
        with self._turn:
            self._text, self._last = text, 0.0
            self._report()

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._last >= EVERY:
            self._last = now
            self._progress(self._text, done=min(self._done, self._total), of=self._total)
