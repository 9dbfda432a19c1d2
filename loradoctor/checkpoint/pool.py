"""Work spread over forked processes, results as they come; a process that dies or hangs costs only the item it was at."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_BATCH = 16
"""Items a process has at hand: enough that it never waits for the next, few enough that the end is shared evenly."""


@dataclass(frozen=True, slots=True)
class Lost:
    """An item that ended its process; the text says how."""

    reason: str


@dataclass(slots=True)
class _Worker(Generic[T]):
    process: multiprocessing.Process
    pipe: Connection
    items: deque[T] = field(default_factory=deque)
    since: float = 0.0


def jobs_by_default() -> int:
    """As many processes as there are processors for this one."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def can_fork() -> bool:
    """Whether the system can start processes by copying this one; macOS can, but its own libraries do not survive it."""
    return sys.platform != "darwin" and "fork" in multiprocessing.get_all_start_methods()


def spread(work: Callable[[T], R], items: Iterable[T], jobs: int, timeout: float) -> Iterator[tuple[T, R | Lost]]:
    """``work`` of every item with its item, in the order in which they are done.

    ``items`` is read as processes have room, so that an endless one costs no memory. ``timeout`` is in seconds per item.
    ``work`` must not raise. With one job, or where processes cannot be forked, everything happens in this process.
    """
    if jobs <= 1 or not can_fork():
        for item in items:
            yield item, work(item)
        return
    source = iter(items)
    workers: list[_Worker[T]] = []
    waiting: deque[T] = deque()
    try:
        while True:
            while len(workers) < jobs and (first := _next(waiting, source)):
                workers.append(_start(work, first[0], workers))
            if not workers:
                return
            for worker in workers:
                while len(worker.items) < _BATCH and (more := _next(waiting, source)):
                    _give(worker, more[0])
            yield from _collect(workers, waiting, timeout)
    finally:
        for worker in workers:
            _stop(worker)


def _next(waiting: deque[T], source: Iterator[T]) -> tuple[T] | None:
    if waiting:
        return (waiting.popleft(),)
    for item in source:
        return (item,)
    return None


def _start(work: Callable[[T], R], first: T, others: list[_Worker[T]]) -> _Worker[T]:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    inherited = [o.pipe for o in others] + [here]
    process = context.Process(target=_serve, args=(work, there, inherited), daemon=True)
    process.start()
    there.close()
    worker: _Worker[T] = _Worker(process, here)  # type: ignore[arg-type] # a ForkProcess is all but a Process
    _give(worker, first)
    return worker


def _serve(work: Callable[[T], R], pipe: Connection, inherited: list[Connection]) -> None:
    """The other process: one answer for every item, in their order, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in inherited:
        other.close()
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(work(pipe.recv()))


def _give(worker: _Worker[T], item: T) -> None:
    if not worker.items:
        worker.since = time.monotonic()
    worker.items.append(item)
    with contextlib.suppress(OSError):  # a process that is gone is found out when its answer is waited for
        worker.pipe.send(item)


def _collect(workers: list[_Worker[T]], waiting: deque[T], timeout: float) -> Iterator[tuple[T, R | Lost]]:
    """What has come in, at least one answer unless time has run out; processes with nothing left to do are let go."""
    ready = set(wait([w.pipe for w in workers], timeout=min(timeout, 1.0)))
    for worker in list(workers):
        lost = ""
        if worker.pipe in ready:
            try:
                answer: R = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join(1)
                lost = _how(worker.process.exitcode)
            else:
                yield worker.items.popleft(), answer
                worker.since = time.monotonic()
        elif time.monotonic() - worker.since > timeout:
            lost = f"it took longer than {timeout:g} s"
        if lost:
            item = worker.items.popleft()
            waiting.extend(worker.items)
            worker.items.clear()
            yield item, Lost(lost)
        if lost or not worker.items:
            workers.remove(worker)
            _stop(worker)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with code {code}"


def _stop(worker: _Worker[T]) -> None:
    worker.pipe.close()
    worker.process.join(0.2)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
