"""The request to merge: prove that it can be done, write beside the target, audit, and leave the rest to who asked."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..audit.audit import audit
from ..model.prepared import prepare
from .carry import carry, has_tokenizer
from .count import Count
from .journal import Busy, Journal
from .making import Merging, Refused
from .obstacles import evidence_against, told
from .stream_merge import ready

SLACK = 64 * 2**20
"""bytes that are left free"""
PARTIAL = ".partial-"
_KEY = re.compile(r"[0-9a-f]{12}")
M_MMAP_THRESHOLD, LARGE = -3, 2**20
"""of malloc.h, and bytes"""
Progress = Callable[..., None]


def merge(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Write the merged model beside ``output``, in the directory that the answer calls ``directory``.

    The request also has ``output``, and ``dtype`` and ``shard_size`` or null. The answer instead has ``refused``, a clause, or
    ``evidence``, what :func:`examine.examine` would say of the modules that cannot be merged, or ``stopped`` with the clause that
    stopped it half way, when ``directory`` is what the next run goes on from.
    """
    _give_memory_back()
    output = Path(request["output"])
    with _scratch() as scratch:
        try:
            merging = ready(request, scratch, progress)
        except Refused as why:
            return {"refused": str(why)}
        if evidence := evidence_against(merging, progress):
            return evidence
        try:
            merging.rehearse(progress)
        except Refused as why:
            return {"refused": str(why)}
        try:
            return _written(request, merging, output, scratch, progress)
        except Busy:
            return {"stopped": "another run is writing this very merge", "directory": str(_partial(output, merging))}
        except (OSError, Refused) as why:
            return {"stopped": _clause(why), "directory": str(_partial(output, merging))}


def _written(request: dict[str, Any], merging: Merging, output: Path, scratch: Path, progress: Progress) -> dict[str, Any]:
    directory = _partial(output, merging)
    started, plan = time.monotonic(), merging.plan
    output.parent.mkdir(parents=True, exist_ok=True)
    removed = _clear(output, directory)
    if (lacking := _lacking(directory, plan.nbytes)) > 0:
        return {"refused": f"`{output.parent}` has {_gigabytes(lacking)} less free space than the {_gigabytes(plan.nbytes)} that are written"}
    journal = Journal(_journal(directory))
    try:
        if not directory.is_dir():
            journal.forget()
            directory.mkdir()
        kept = sum(t.nbytes for n, t in enumerate(plan.tasks) if n in journal.done)
        count = Count(progress, plan.nbytes)
        writer = merging.write(directory, journal, count.advance, count.say)
        count.end("writing the tokenizer and the configs")
        try:
            carried = carry(_with_tokenizer(request), Path(request["base"]), directory)
            _settle(scratch, directory)
            audited = _audited(request, merging, directory, progress)
        finally:
            # The disk was still busy with the weights.
            writer.settle()
    finally:
        journal.close()
    facts = {
        "bytes": plan.nbytes,
        "kept": kept,
        "removed": removed,
        "seconds": time.monotonic() - started,
        "tensors": sum(len(shard.outputs) for shard in merging.shards),
        "modules": len(merging.prepared.adapted),
        "replaced": len(merging.replaced),
        "shards": len(plan.files),
        "carried": carried,
        "dtype": str(merging.model.config.dtype).removeprefix("torch."),
    }
    return {**told(merging), "directory": str(directory), "audit": audited, "written": facts}


def _audited(request: dict[str, Any], merging: Merging, directory: Path, progress: Progress) -> dict[str, Any]:
    # On a model of its own: what has gone wrong while merging must not be what the result is held against.
    again = prepare(request, merging.prepared.base.again(), weights=True, progress=progress)
    return audit(again, directory, progress)


def _with_tokenizer(request: dict[str, Any]) -> Path:
    """The adapter whose tokenizer is carried along: of several the first that has one."""
    adapters = [Path(directory) for directory in request.get("carry") or [request["adapter"]]]
    return next((directory for directory in adapters if has_tokenizer(directory)), adapters[0])


def _partial(output: Path, merging: Merging) -> Path:
    return output.with_name(f"{output.name}{PARTIAL}{merging.key}")


def _journal(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.journal")


def _clear(output: Path, directory: Path) -> list[str]:
    """Remove what other plans for the same output have left behind; the names."""
    removed = []
    for other in sorted(path for path in output.parent.iterdir() if path.name.startswith(output.name + PARTIAL)):
        if other == directory or not _KEY.fullmatch(other.name.removeprefix(output.name + PARTIAL)):
            continue
        with contextlib.suppress(Busy):
            journal = Journal(_journal(other), patience=0)
            try:
                shutil.rmtree(other, ignore_errors=True)
                _journal(other).unlink(missing_ok=True)
            finally:
                journal.close()
            removed.append(other.name)
    return removed


def _lacking(directory: Path, needed: int) -> int:
    """Bytes that the file system of ``directory`` lacks for ``needed``, what is there already counted."""
    there = sum(path.stat().st_blocks * 512 for path in directory.iterdir()) if directory.is_dir() and hasattr(os.stat_result, "st_blocks") else 0
    return needed - there + SLACK - shutil.disk_usage(directory.parent).free


def _settle(scratch: Path, directory: Path) -> None:
    """Move what `save_pretrained` has written beside the weights into ``directory``, `config.json` last: without it nothing loads."""
    for path in sorted(scratch.iterdir(), key=lambda p: p.name == "config.json"):
        shutil.copyfile(path, directory / path.name)
    for path in directory.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            _force(path)
    _force(directory)


def _force(path: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets a directory be forced
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="loradoctor-merge-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _clause(why: BaseException) -> str:
    if isinstance(why, OSError):
        if why.errno == errno.ENOSPC:
            return "there is no space left on the disk"
        return f"{(why.strerror or str(why)).lower()}" + (f": `{why.filename}`" if why.filename else "")
    return str(why)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _give_memory_back() -> None:
    """Have large blocks of memory returned as soon as they are freed."""
    # glibc keeps what it believes will be wanted again, and in several threads that grows: 1.3 GB for a merge that needs 0.1.
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
