"""Ask the torch side: start it under an interpreter, hand it a request, wait no longer than agreed. Standard library only."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

ENTRY = Path(__file__).resolve().parent / "__main__.py"
NEEDED = ("torch", "transformers", "peft")
TAIL = 4096
"""bytes of the child's standard error that are read for its last words"""


class TorchSideMissing(Exception):
    """The interpreter cannot do it: a library is not installed. The text is one clause for the user."""


class TorchSideFailed(Exception):
    """The child crashed, ran out of time or answered nonsense. The text is one clause for the user."""


class BadInterpreter(ValueError):
    """The interpreter that was asked for cannot be started."""


def ask(
    request: Mapping[str, Any], *, python: str | None, timeout: float, progress: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """The torch side's answer to ``request`` (see ``session.py``), from ``python`` or this interpreter.

    ``timeout`` is in seconds. Raises :class:`TorchSideMissing`, :class:`TorchSideFailed` or :class:`BadInterpreter`.
    """
    interpreter = python or sys.executable
    if python is None:
        # An interpreter without torch would only be started to say so.
        absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if absent:
            raise TorchSideMissing(_missing(absent[0], python))
    with tempfile.TemporaryFile() as errors, _started(interpreter, errors) as child:
        answer = _converse(child, request, timeout, progress)
        if answer is None:
            raise TorchSideFailed(_death(child, errors))
    if "missing" in answer:
        raise TorchSideMissing(_missing(str(answer["missing"]), python))
    return answer


def _missing(library: str, python: str | None) -> str:
    where = f"`{python}` has no `{library}`" if python else f"`{library}` is not installed"
    return f"{where}: pip install 'loradoctor[torch]'"


@contextlib.contextmanager
def _started(interpreter: str, errors: IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONWARNINGS", "PYTHONSTARTUP")}
    try:
        child = subprocess.Popen(
            [interpreter, str(ENTRY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            start_new_session=os.name == "posix",
        )
    except OSError as error:
        raise BadInterpreter(f"`{interpreter}` cannot be started: {(error.strerror or str(error)).lower()}") from error
    try:
        yield child
    finally:
        _stop(child)


def _stop(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        with contextlib.suppress(OSError):
            # Its whole session: a library may have started helpers that would outlive it.
            if os.name == "posix":
                os.killpg(child.pid, signal.SIGKILL)
            else:
                child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _converse(
    child: subprocess.Popen[str], request: Mapping[str, Any], timeout: float, progress: Callable[[str], None] | None
) -> dict[str, Any] | None:
    """The result, or None when the child ended without one. Raises :class:`TorchSideFailed` at the time limit."""
    assert child.stdin is not None  # noqa: S101 -- opened as a pipe above
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(request))
        child.stdin.close()
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(child, lines), daemon=True).start()
    deadline = time.monotonic() + timeout
    stage = "starting"
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise TorchSideFailed(f"did not finish within {timeout:g} s (it was {stage}); `--timeout` gives it longer") from None
        if line is None:
            return None
        event = _event(line)
        if "result" in event:
            return dict(event["result"])
        stage = str(event.get("progress", stage))
        if progress is not None and "progress" in event:
            progress(stage)


def _pump(child: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    assert child.stdout is not None  # noqa: S101 -- opened as a pipe above
    with contextlib.suppress(ValueError, OSError):
        for line in child.stdout:
            lines.put(line)
    lines.put(None)


def _event(line: str) -> dict[str, Any]:
    # sitecustomize or a wrapper script may print before our code has moved standard output away.
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _death(child: subprocess.Popen[str], errors: IO[bytes]) -> str:
    try:
        status = child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        status = None
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - TAIL))
    said = [line.strip() for line in errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
    how = f"ended by signal {-status}" if status is not None and status < 0 else f"ended with status {status}"
    return f"{how} before it answered" + (f": {said[-1][:200]}" if said else "")
