"""`loradoctor lint`: from paths to a report."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from loradoctor.config import Settings
from loradoctor.diagnostic import Report
from loradoctor.lint import files
from loradoctor.lint.pipeline import Outcome, Pipeline, unreadable

ENOUGH_FOR_PROCESSES = 12
"""Starting a process costs about what three small files cost; with fewer relevant ones than this nothing is gained."""
HELD = 1 << 26
"""How many bytes of files are kept between filtering and analysing them; what does not fit is read again."""


def lint(paths: Sequence[str], settings: Settings, *, stdin: tuple[str, bytes] | None = None, cached: bool = False) -> Report:
    """Look for bugs in every Python file and notebook that ``paths`` mean, and in ``stdin``: a file name and its bytes.

    The report's subjects are the files that were analysed; those without a relevant word are not parsed and not among them.
    ``cached`` looks up what an earlier run found out about a file that has not changed, and writes down what this one does.
    """
    _look_anew()
    pipeline = Pipeline(settings)
    reports = [pipeline.data(*stdin)] if stdin is not None else []
    found = files.find(paths, settings)
    trouble = [d for one in found.unreadable for d in pipeline.kept(one.path, [unreadable(one.path, one.reason)])]
    reports.append(Report().with_diagnostics(trouble))
    with _without_collector():
        reports += _remembered(pipeline, found.files) if cached else (o.report for o in _each(pipeline, found.files))
    _look_anew()
    return Report.join(report for report in reports if report is not None)


def _look_anew() -> None:
    """Forget what an earlier run of this process saw of the files around those it analysed."""
    for name in ("artifacts", "neighbours", "project", "versions"):
        for value in vars(sys.modules.get(f"loradoctor.lint.{name}", files)).values():
            clear = getattr(value, "cache_clear", None)
            if clear is not None and not isinstance(value, type):
                clear()


def _remembered(pipeline: Pipeline, paths: Sequence[str]) -> list[Report | None]:
    from loradoctor.lint.cache import Cache

    cache = Cache(pipeline.settings)
    reports: dict[str, Report | None] = {}
    for path in paths:
        known, report = cache.find(path)
        if known:
            reports[path] = report
    new = [path for path in paths if path not in reports]
    for path, outcome in zip(new, _each(pipeline, new), strict=True):
        reports[path] = outcome.report
        if outcome.lasts:
            cache.add(path, outcome.report, outcome.consulted)
    cache.save()
    return [reports[path] for path in paths]


def _each(pipeline: Pipeline, paths: Sequence[str]) -> Iterator[Outcome]:
    """What there is to say about every path, in order. No file is read twice."""
    if len(paths) < ENOUGH_FOR_PROCESSES:
        yield from map(pipeline.outcome, paths)
        return
    worth = _worth_analysing(paths)
    if len(worth) < ENOUGH_FOR_PROCESSES:
        outcomes: Iterator[Outcome] = (pipeline.examined(path, data) if data else pipeline.outcome(path) for path, data in worth.items())
    else:
        from loradoctor.lint.parallel import each

        outcomes = each(pipeline, tuple(worth.items()))
    for path in paths:
        yield next(outcomes) if path in worth else Outcome(None)


def _worth_analysing(paths: Sequence[str]) -> dict[str, bytes]:
    """The files that a rule could have something to say about, with their bytes; without where they are to be read again."""
    worth: dict[str, bytes] = {}
    room = HELD
    for path in paths:
        try:
            data = files.read(path)
        except (OSError, ValueError):  # which is for the pipeline to tell
            worth[path] = b""
            continue
        if files.relevant(data):
            worth[path] = data if len(data) <= room else b""
            room -= len(worth[path])
    return worth


@contextmanager
def _without_collector() -> Iterator[None]:
    # Trees and modules are dropped whole, file by file; looking for cycles among them costs a fifth of the time.
    import gc

    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
