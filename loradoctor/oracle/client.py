"""Ask the torch side: start it under an interpreter, hand it requests, wait no longer than agreed. Standard library only."""

from __future__ import annotations

import atexit
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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

ENTRY = Path(__file__).resolve().parent / "__main__.py"
NEEDED = ("torch", "transformers", "peft")
PROBE = (0.7, 0.3, 1.1)
"""STEP, START_LEFT and START_RIGHT of ``probe.py``, for whoever computes the same numbers without torch"""
TAIL = 4096
"""bytes of the child's standard error that are read for its last words"""


class TorchSideMissing(Exception):
    """The interpreter cannot do it: a library is not installed. The text is one clause for the user."""


class TorchSideFailed(Exception):
    """The child crashed, ran out of time or answered nonsense. The text is one clause for the user."""


class BaseUnavailable(Exception):
    """The hub does not give the base that was asked for. The text is one clause for the user."""


class BadInterpreter(ValueError):
    """The interpreter that was asked for cannot be started."""


def ask(
    request: Mapping[str, Any],
    *,
    python: str | None,
    timeout: float,
    progress: Callable[[str], None] | None = None,
    watch: Callable[[Mapping[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """The torch side's answer to ``request`` (see ``session.py``), from ``python`` or this interpreter.

    ``timeout`` is in seconds. The child stays for the next request, because its imports take seconds; after a failure it is
    stopped. Downloads do not count against it as long as bytes arrive; with ``watch``, which is called with every event, it is the
    longest silence that is borne. Raises :class:`TorchSideMissing`,
    :class:`TorchSideFailed`, :class:`BaseUnavailable` or :class:`BadInterpreter`.
    """
    if python is None:
        # An interpreter without torch would only be started to say so.
        absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if absent:
            raise TorchSideMissing(_missing(absent[0], python))
    interpreter = python or sys.executable
    # Whether the hub may be asked is settled when its client library is imported, so it is part of which child this is.
    kind = (interpreter, bool(request.get("online")))
    child = _running.pop(kind, None)
    if child is None or not child.alive:
        child = _Child(interpreter)
    try:
        answer = child.converse(request, timeout, progress, watch)
    except BaseException:
        child.stop()
        raise
    _running[kind] = child
    if "missing" in answer:
        raise TorchSideMissing(_missing(str(answer["missing"]), python))
    if "unavailable" in answer:
        raise BaseUnavailable(str(answer["unavailable"]))
    return answer


def close() -> None:
    """Stop every child that waits for another request."""
    while _running:
        _running.popitem()[1].stop()


def _missing(library: str, python: str | None) -> str:
    where = f"`{python}` has no `{library}`" if python else f"`{library}` is not installed"
    return f"{where}: pip install 'loradoctor[torch]'"


class _Child:
    """One child process and the thread that reads its answers."""

    def __init__(self, interpreter: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONWARNINGS", "PYTHONSTARTUP")}
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 -- closed in stop()
        try:
            self._process = subprocess.Popen(
                [interpreter, str(ENTRY)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environment,
                start_new_session=os.name == "posix",
            )
        except OSError as error:
            self._errors.close()
            raise BadInterpreter(f"`{interpreter}` cannot be started: {(error.strerror or str(error)).lower()}") from error
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._pump, daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def converse(
        self,
        request: Mapping[str, Any],
        timeout: float,
        progress: Callable[[str], None] | None,
        watch: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """The result for ``request``. Raises :class:`TorchSideFailed` at the time limit and when the child ends without one."""
        assert self._process.stdin is not None  # noqa: S101 -- opened as a pipe above
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        deadline = time.monotonic() + timeout
        stage, fetching = "starting", 0.0
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TorchSideFailed(f"did not finish within {timeout:g} s (it was {stage}); `--timeout` gives it longer") from None
            if line is None:
                raise TorchSideFailed(self._last_words())
            event = _event(line)
            if "result" in event:
                return dict(event["result"])
            if watch is not None and event:
                deadline = time.monotonic() + timeout
                watch(event)
            now = time.monotonic() if event.get("fetching") else 0.0
            # From one report of a download to the next the time is the network's.
            deadline += now - fetching if now and fetching else 0.0
            fetching = now
            stage = str(event.get("progress", stage))
            if progress is not None and "progress" in event:
                progress(stage)

    def stop(self) -> None:
        """End the process with everything it started; a second call does nothing."""
        if self.alive:
            with contextlib.suppress(OSError):
                # Its whole session: a library may have started helpers that would outlive it.
                if os.name == "posix":
                    os.killpg(self._process.pid, signal.SIGKILL)
                else:
                    self._process.kill()
        self._process.wait()
        self._reader.join(timeout=1)
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _pump(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 -- opened as a pipe above
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(None)

    def _last_words(self) -> str:
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "closed its output before it answered"
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - TAIL))
        said = [line.strip() for line in self._errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
        how = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"{how} before it answered" + (f": {said[-1][:200]}" if said else "")


def _event(line: str) -> dict[str, Any]:
    # sitecustomize or a wrapper script may print before our code has moved standard output away.
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


_running: dict[tuple[str, bool], _Child] = {}
atexit.register(close)
