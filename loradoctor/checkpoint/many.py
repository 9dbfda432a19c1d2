"""`check -r`: every adapter below, one report each as it is done.

The light tier runs in forked processes. Adapters whose base model is at hand come last, one at a time: the torch side fills
a machine by itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from loradoctor import engine
from loradoctor.checkpoint.layout import Place, TargetError
from loradoctor.checkpoint.pool import Lost, jobs_by_default, spread
from loradoctor.checkpoint.run import CheckOptions, check_place
from loradoctor.checkpoint.walk import Unlisted, walk
from loradoctor.diagnostic import Finding, Location, Report
from loradoctor.registry import family
from loradoctor.self_report import check_did_not_complete, unreadable_file


@dataclass(frozen=True, slots=True)
class Result:
    """One adapter's path and report."""

    path: str
    report: Report


_LATER = "later"
"""What a process answers for an adapter that the torch side must look at."""


def check_below(roots: Iterable[str], options: CheckOptions, jobs: int | None = None) -> Iterator[Result]:
    """The result of every adapter below ``roots``, in the order in which they are done.

    Raises :class:`TargetError` when a root is no directory or a base that was insisted on cannot be had; one adapter's failure is its
    own LD002 and ends nothing.
    """
    return check_each(walk(roots), options, jobs)


def check_each(found: Iterable[Place | Unlisted], options: CheckOptions, jobs: int | None = None) -> Iterator[Result]:
    """The result of every adapter found, in the order in which they are done. Raises as :func:`check_below` does."""
    jobs = jobs_by_default() if jobs is None else jobs
    if options.base not in ("none", "auto"):
        for place in found:
            yield _listed(place) or _alone(place, options)
        return
    _prepare(jobs)
    later: list[Place] = []

    def work(item: Place | Unlisted) -> Result | str:
        done = _listed(item)
        if done is not None:
            return done
        assert isinstance(item, Place)  # noqa: S101
        return _LATER if options.base == "auto" and _has_base(item, options) else _alone(item, options)

    for item, answer in spread(work, found, jobs, options.timeout):
        if isinstance(answer, Lost):
            yield _lost(item.path, answer.reason)
        elif isinstance(answer, str):
            assert isinstance(item, Place)  # noqa: S101
            later.append(item)
        else:
            yield answer
    for place in later:
        yield _alone(place, options)


def _prepare(jobs: int) -> None:
    """Import what every adapter needs once, before there are processes."""
    if jobs > 1 and "numpy" not in sys.modules:
        # Each process has a processor to itself; more threads in numpy's linear algebra would only get in its way.
        for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")
    import numpy.linalg  # noqa: F401

    family("checkpoint")
    family("merge")


def _listed(item: Place | Unlisted) -> Result | None:
    if isinstance(item, Place):
        return None
    finding = Finding(f"the directory cannot be listed: {item.reason}", Location(item.path), help="what is below it was not checked")
    return Result(item.path, Report(diagnostics=(engine.stamp(unreadable_file, finding, item.path),)))


def _alone(item: Place | Unlisted, options: CheckOptions) -> Result:
    """One adapter, whatever happens."""
    assert isinstance(item, Place)  # noqa: S101
    path = shown(item)
    try:
        return Result(path, check_place(item, options))
    except TargetError:
        raise
    except MemoryError:
        return _lost(path, "there was not enough memory for it")
    except Exception as error:  # noqa: BLE001 -- one adapter must not end the others
        return _lost(path, f"it failed with {type(error).__name__}: {error}")


def shown(place: Place) -> str:
    """The path that stands for an adapter: the directory, or the file where several lie in one."""
    return place.path if place.weights is None else f"{place.path.rstrip('/')}/{place.weights.name}"


def _lost(path: str, reason: str) -> Result:
    finding = Finding(f"the check of this adapter did not complete: {reason}", Location(path), help="the others were checked")
    return Result(path, Report(diagnostics=(engine.stamp(check_did_not_complete, finding, path),)))


def _has_base(place: Place, options: CheckOptions) -> bool:
    """Whether the torch side would have something to do: the base is on this machine, or may be fetched."""
    from loradoctor.checkpoint import adapter_config
    from loradoctor.checkpoint.base_lookup import find
    from loradoctor.checkpoint.checkpoint import Checkpoint

    try:
        config = adapter_config.read(place.directory / adapter_config.NAME)
        base, _ = find(Checkpoint(place.path, place.directory, "adapter", config, None), options)
        return base is not None
    except Exception:  # noqa: BLE001 -- the check itself will say what is wrong
        return False
