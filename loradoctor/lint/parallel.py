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
from loradoctor.lint.pipeline import Outcome
from loradoctor.self_report import check_did_not_complete

if TYPE_CHECKING:
    from loradoctor.lint.pipeline import Pipeline

Work = tuple[str, bytes]
"""A path and the file's bytes; none where it is to be read by whoever analyses it."""

FILES_PER_TASK = 4
MOST_PER_TASK = 12
"""Neighbours are analysed together, since they import and read each other; more of them would leave a process waiting at the end."""
_GARBAGE = 400
"""Files after which a process looks for cycles. Modules are taken apart when they are done with, so that hardly any are left."""

_work: Sequence[Work] = ()
"""What there is to do, where a forked process finds it without a copy."""


def each(pipeline: Pipeline, work: Sequence[Work]) -> Iterator[Outcome]:
    """What there is to say about every file, in order; on this process where others cannot be had."""
    method, workers = _method(), min(_processors(), len(work) // FILES_PER_TASK)
    if method is None or workers < 2:
        yield from (_one(pipeline, *one) for one in work)
        return
    tasks = list(_tasks([path for path, _ in work]))
    largest_first = sorted(tasks, key=lambda task: -sum(len(work[i][1]) for i in task))
    context = multiprocessing.get_context(method)
    try:
        with _pool(workers, context, pipeline, work, method) as pool:
            results = {task: pool.submit(_chunk, pipeline, task) for task in largest_first}
            done = {task: None if f.exception() else f.result() for task, f in results.items()}
    except OSError:  # no semaphores or no more processes: some containers and sandboxes
        done = {task: [_one(pipeline, *work[i]) for i in task] for task in tasks}
    for task in tasks:
        outcomes = done[task]
        yield from outcomes if outcomes is not None else (_alone(pipeline, work[i][0], context) for i in task)


def _tasks(paths: Sequence[str]) -> Iterator[range]:
    """The files in order, those of one directory together where they are not too many."""
    first = 0
    for here in range(1, len(paths) + 1):
        size = here - first
        whole = here == len(paths) or os.path.dirname(paths[here]) != os.path.dirname(paths[here - 1])  # noqa: PTH120 -- it is text
        if size == MOST_PER_TASK or here == len(paths) or (whole and size >= FILES_PER_TASK):
            yield range(first, here)
            first = here


def _pool(
    workers: int, context: multiprocessing.context.BaseContext, pipeline: Pipeline, work: Sequence[Work], method: str
) -> ProcessPoolExecutor:
    if method != "fork":
        return ProcessPoolExecutor(workers, context, _begin, ([(path, b"") for path, _ in work],))
    import gc

    _preload(pipeline)
    _begin(work)
    gc.freeze()  # what every process shares is garbage in none of them
    return ProcessPoolExecutor(workers, context)


def _preload(pipeline: Pipeline) -> None:
    """Import here what every process will need, so that none of them has to."""
    if pipeline.analyse is None:
        from loradoctor import registry
        from loradoctor.lint import libraries, module

        libraries.vocabulary()
        registry.family("lint")
        assert module  # noqa: S101 -- imported for those to come


def _begin(work: Sequence[Work]) -> None:
    global _work  # noqa: PLW0603 -- the way into a process that was forked, and into one that was not
    _work = work


def _chunk(pipeline: Pipeline, task: Sequence[int]) -> list[Outcome]:
    import gc

    gc.disable()
    outcomes = [_one(pipeline, *_work[i]) for i in task]
    _collect(len(task))
    return outcomes


_since = 0


def _collect(files: int) -> None:
    # Trees are dropped whole; what is left in cycles would pile up to the end of the run.
    global _since  # noqa: PLW0603 -- counted over the tasks of a process
    _since += files
    if _since >= _GARBAGE:
        import gc

        gc.collect()
        _since = 0


def _one(pipeline: Pipeline, path: str, data: bytes) -> Outcome:
    return pipeline.examined(path, data) if data else pipeline.outcome(path)


def _file(pipeline: Pipeline, path: str) -> Outcome:
    return pipeline.outcome(path)


def _alone(pipeline: Pipeline, path: str, context: multiprocessing.context.BaseContext) -> Outcome:
    """What there is to say about a file whose neighbour, or which itself, ended the process it was in."""
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_file, pipeline, path).result()
    except (BrokenProcessPool, OSError):
        finding = Finding(
            "the process that analysed this file died",
            Location(path),
            help="nothing in it was checked; please report this with the file that caused it",
        )
        return Outcome(Report().with_diagnostics([stamp(check_did_not_complete, finding, path)]), lasts=False)


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
