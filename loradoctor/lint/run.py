"""`loradoctor lint`: from paths to a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from loradoctor.config import Settings
from loradoctor.diagnostic import Report
from loradoctor.lint import files
from loradoctor.lint.pipeline import Pipeline, unreadable

# Starting a process costs about what three small files cost; with fewer than this many nothing is gained.
ENOUGH_FOR_PROCESSES = 12


def lint(paths: Sequence[str], settings: Settings, *, stdin: tuple[str, bytes] | None = None) -> Report:
    """Look for bugs in every Python file and notebook that ``paths`` mean, and in ``stdin``: a file name and its bytes.

    The report's subjects are the files that were analysed; those without a relevant word are not parsed and not among them.
    """
    pipeline = Pipeline(settings)
    reports = [pipeline.data(*stdin)] if stdin is not None else []
    found = files.find(paths, settings)
    trouble = [d for one in found.unreadable for d in pipeline.kept(one.path, [unreadable(one.path, one.reason)])]
    reports.append(Report().with_diagnostics(trouble))
    reports += _each(pipeline, found.files)
    return Report.join(report for report in reports if report is not None)


def _each(pipeline: Pipeline, paths: Sequence[str]) -> Iterator[Report | None]:
    if len(paths) >= ENOUGH_FOR_PROCESSES:
        worth = [path for path in paths if _worth_reading(path)]
        if len(worth) >= ENOUGH_FOR_PROCESSES:
            from loradoctor.lint.parallel import each

            yield from each(pipeline, worth)
            return
        paths = worth
    with _without_collector():
        yield from map(pipeline.file, paths)


def _worth_reading(path: str) -> bool:
    try:
        return files.relevant(files.read(path))
    except (OSError, ValueError):
        return True


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
