"""Files spread over processes. Imported only when there are many."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Location, Report
from loradoctor.engine import stamp
from loradoctor.self_report import check_did_not_complete

if TYPE_CHECKING:
    from loradoctor.lint.pipeline import Pipeline

FILES_PER_TASK = 4


def each(pipeline: Pipeline, paths: Sequence[str]) -> Iterator[Report | None]:
    """The report on every path, in order; on this process where others cannot be had."""
    method, workers = _method(), min(_processors(), len(paths) // FILES_PER_TASK)
    if method is None or workers < 2:
        yield from map(pipeline.file, paths)
        return
    chunks = [tuple(paths[i : i + FILES_PER_TASK]) for i in range(0, len(paths), FILES_PER_TASK)]
    context = multiprocessing.get_context(method)
    try:
        pool = ProcessPoolExecutor(workers, mp_context=context)
        with pool:
            results = [pool.submit(_chunk, pipeline, chunk) for chunk in chunks]
            done = [None if f.exception() else f.result() for f in results]
    except OSError:  # no semaphores or no more processes: some containers and sandboxes
        done = [_chunk(pipeline, chunk) for chunk in chunks]
    for chunk, reports in zip(chunks, done, strict=True):
        yield from reports if reports is not None else (_alone(pipeline, path, context) for path in chunk)


def _chunk(pipeline: Pipeline, paths: tuple[str, ...]) -> list[Report | None]:
    import gc

    gc.disable()
    reports = []
    for path in paths:
        reports.append(pipeline.file(path))
        gc.collect()  # trees are dropped whole; without this they would pile up to the end of the task
    gc.enable()
    return reports


def _alone(pipeline: Pipeline, path: str, context: multiprocessing.context.BaseContext) -> Report | None:
    """The report on a file whose neighbour, or which itself, ended the process it was in."""
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_chunk, pipeline, (path,)).result()[0]
    except (BrokenProcessPool, OSError):
        finding = Finding(
            "the process that analysed this file died",
            Location(path),
            help="nothing in it was checked; please report this with the file that caused it",
        )
        return Report().with_diagnostics([stamp(check_did_not_complete, finding, path)])


def _method() -> str | None:
    """How processes can be started without surprises; None when they cannot.

    A forked child shares what was imported, but must not be forked from a process with threads. Any other way runs the
    caller's main script again: only ours is known to bear that.
    """
    if sys.platform == "linux" and threading.active_count() == 1:
        return "fork"
    main = sys.modules.get("__main__")
    ours = Path(getattr(main, "__file__", None) or "").stem == "loradoctor" or getattr(main, "__package__", None) == "loradoctor"
    return "spawn" if ours else None


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
