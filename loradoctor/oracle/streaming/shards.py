"""Write the shards of a plan: bytes and digests in one thread and the disk in another, while the next layer is merged."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from .journal import Journal
from .plan import Copy, Make, Plan, Task

CHUNK = 4 * 2**20
"""bytes that are read, hashed and written at a time: they stay in the cache"""
SAFE = 256 * 2**20
"""bytes after which what is written is forced to disk and journalled"""
AHEAD = 1
"""computed tasks that may wait for the disk"""

PART = ".part"
FORCE, END = "force", "end"

Piece = tuple[int, int, memoryview]
"""shard, first byte, bytes"""


class Writer:
    """Carries out tasks in ``directory``, whose files are called ``….part`` until they are whole."""

    def __init__(self, plan: Plan, directory: Path, journal: Journal, advance: Callable[[int], None]) -> None:
        """``advance`` is called with the number of bytes that have been dealt with, from any thread. Raises OSError."""
        self._plan, self._directory, self._journal, self._advance = plan, directory, journal, advance
        self._files = [self._opened(number) for number in range(len(plan.files))]
        self._sources: dict[Path, int] = {}
        self._unsafe = 0
        self._error: BaseException | None = None
        self._room = threading.BoundedSemaphore(AHEAD)
        self._queue: queue.SimpleQueue[tuple[int, Task, Iterable[Piece] | None] | None] = queue.SimpleQueue()
        self._writing = threading.Thread(target=self._write_all, daemon=True)
        self._disk: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._forcing = threading.Thread(target=self._force_all, daemon=True)

    def remaining(self) -> list[int]:
        """Numbers of the tasks that are still to do: what the journal says is done is read and compared first."""
        left = []
        for number, task in enumerate(self._plan.tasks):
            known = self._journal.done.get(number)
            if known is not None and known == self._digest(task):
                self._advance(task.nbytes)
            else:
                left.append(number)
        self._writing.start()
        self._forcing.start()
        return left

    def copy(self, number: int, task: Copy) -> None:
        """Have ``task`` done in its turn."""
        self._check()
        self._queue.put((number, task, None))

    def put(self, number: int, task: Task, pieces: Iterable[Piece]) -> None:
        """Have ``pieces`` written in their turn; waits while too many are waiting."""
        while not self._room.acquire(timeout=1):
            self._check()
        self._check()
        self._queue.put((number, task, pieces))

    def finish(self) -> None:
        """Wait until everything is written and the files have their names; the disk may still be busy. Raises what writing raised."""
        self._queue.put(None)
        self._writing.join()
        self._check()
        for file in self._plan.files:
            part = self._directory / (file.name + PART)
            if part.exists():
                part.rename(self._directory / file.name)
        self._disk.put(FORCE)

    def settle(self) -> None:
        """Wait until everything is on disk. Raises what the disk raised."""
        self._disk.put(END)
        self._forcing.join()
        self._check()
        self._close()

    def abandon(self) -> None:
        """Stop as soon as possible, keeping what the journal knows."""
        self._error = self._error or InterruptedError()
        self._queue.put(None)
        self._disk.put(FORCE)
        self._disk.put(END)
        for thread in (self._writing, self._forcing):
            if thread.is_alive():
                thread.join()
        self._close()

    def _close(self) -> None:
        for descriptor in (*self._files, *self._sources.values()):
            os.close(descriptor)
        self._files, self._sources = [], {}

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _opened(self, number: int) -> int:
        file = self._plan.files[number]
        whole = self._directory / file.name
        path = whole if whole.exists() else whole.with_name(file.name + PART)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        if os.fstat(descriptor).st_size != file.size:
            os.truncate(path, file.size)
        _write(descriptor, file.header, 0)
        return descriptor

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            number, task, pieces = item
            try:
                if self._error is None:
                    self._do(number, task, pieces)
            except BaseException as error:  # noqa: BLE001 -- raised in the other thread
                self._error = error
            finally:
                if pieces is not None:
                    self._room.release()
                del item, pieces

    def _force_all(self) -> None:
        while self._disk.get() == FORCE:
            try:
                known = self._journal.noted()
                for descriptor in self._files:
                    os.fsync(descriptor)
                self._journal.commit(known)
            except BaseException as error:  # noqa: BLE001 -- raised in the other thread
                self._error = self._error or error

    def _do(self, number: int, task: Task, pieces: Iterable[Piece] | None) -> None:
        digest = hashlib.sha256()
        for shard, start, chunk in self._copied(task) if isinstance(task, Copy) else pieces or ():
            if self._error is not None:
                return
            digest.update(chunk)
            _write(self._files[shard], chunk, start)
            self._advance(len(chunk))
        self._journal.note(number, digest.hexdigest())
        self._unsafe += task.nbytes
        if self._unsafe >= SAFE:
            self._unsafe = 0
            self._disk.put(FORCE)

    def _copied(self, task: Copy) -> Iterator[Piece]:
        if task.source not in self._sources:
            self._sources[task.source] = os.open(task.source, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        source = self._sources[task.source]
        for done in range(0, task.nbytes, CHUNK):
            wanted = min(CHUNK, task.nbytes - done)
            chunk = _read(source, wanted, task.offset + done)
            if len(chunk) != wanted:
                raise OSError(f"`{task.source.name}` became shorter while it was read")
            yield task.shard, task.start + done, memoryview(chunk)

    def _digest(self, task: Task) -> str:
        digest = hashlib.sha256()
        for shard, start, nbytes in _extents(task):
            for done in range(0, nbytes, CHUNK):
                digest.update(_read(self._files[shard], min(CHUNK, nbytes - done), start + done))
        return digest.hexdigest()


def pieces(tensor: torch.Tensor, shard: int, start: int) -> Iterator[Piece]:
    """The bytes of ``tensor`` in order, some megabytes at a time."""
    flat = memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    for done in range(0, len(flat), CHUNK):
        yield shard, start + done, flat[done : done + CHUNK]


def _extents(task: Task) -> Iterator[tuple[int, int, int]]:
    if isinstance(task, Copy):
        yield task.shard, task.start, task.nbytes
        return
    for place in task.places if isinstance(task, Make) else (task.place,):
        yield place.shard, place.start, place.nbytes


# One thread at a time uses a descriptor, so that seeking is safe; Windows has no pread.
def _read(descriptor: int, count: int, start: int) -> bytes:
    os.lseek(descriptor, start, os.SEEK_SET)
    return os.read(descriptor, count)


def _write(descriptor: int, data: bytes | memoryview, start: int) -> None:
    os.lseek(descriptor, start, os.SEEK_SET)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
