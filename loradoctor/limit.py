"""A limit on processor time for what may not come to an end by itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def processor_time(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after ``seconds``, where that can be done without taking another's alarm.

    That is in the main thread of a process on a Unix system which has no such timer yet; elsewhere the block is not limited.
    """
    free = (
        hasattr(signal, "setitimer")
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGVTALRM) is signal.SIG_DFL
        and signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    )
    if not free:
        yield
        return

    def expired(_: int, __: object) -> None:
        raise TimeoutError(f"it took more than {seconds:g} seconds of processor time")

    signal.signal(signal.SIGVTALRM, expired)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
