"""Requests in, results out: what the child process does with its standard streams.

A request is a line of standard input that holds one JSON object::

    {"adapter": DIR, "base": DIR or ID, "online": bool, "merge": bool, "forward": bool, "num_labels": int or null}

With ``"task": "probe"`` only the adapter is loaded, and every update applied to fixed vectors (``probe.py``); with ``"merge"``
the merged model is written (``merging.py``), and progress also says ``"done"`` and ``"of"`` in bytes; ``"combine"`` makes one
adapter of several (``combine.py``).

The answer is a line of JSON per event on what was standard output when the process started: ``{"progress": text, "fetching":
bool}`` any number of times, then one ``{"result": {...}}``. Everything that libraries print goes to standard error. The process ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from .files import hub

Progress = Callable[..., None]
"""called with a text, and with ``done`` and ``of`` in bytes where they are known"""


def main() -> int:
    """Serve the requests on standard input, one after the other; an exception ends the process and is its last word."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    turn = threading.Lock()

    def send(event: dict[str, Any]) -> None:
        # Downloads are reported from a thread of their own.
        with turn:
            answers.write(json.dumps(event) + "\n")
            answers.flush()

    def report(text: str, **counted: int) -> None:
        send({"progress": text, "fetching": text.startswith(hub.FETCHING), **counted})

    for line in sys.stdin:
        request = json.loads(line)
        _prepare(online=bool(request.get("online")))
        send({"result": serve(request, report)})
    answers.close()
    # Some native libraries crash while the interpreter shuts down; the answer is already out.
    sys.stderr.flush()
    os._exit(0)


def serve(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The result for ``request``: see ``examine.examine``.

    Instead of it, ``missing`` names a library that cannot be imported, ``unavailable`` says why the hub does not give the base.
    """
    progress("importing torch, transformers and peft")
    for library in ("torch", "safetensors", "transformers", "peft"):
        try:
            __import__(library)
        except ImportError as error:
            return {"missing": library, "reason": first_line(error)}
    try:
        request = hub.located(request, progress)
    except hub.Unavailable as why:
        return {"unavailable": str(why)}
    if request.get("task") == "probe":
        from .probe import probe

        return probe(request, progress)
    if request.get("task") == "merge":
        from .streaming.request import merge

        return merge(request, progress)
    if request.get("task") == "combine":
        from .streaming.combine import combine

        return combine(request, progress)
    from .examine import examine

    return {**examine(request, progress), "base": request["base"]}


def first_line(error: BaseException) -> str:
    """``Type: what it says``, cut to its first line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _prepare(*, online: bool) -> None:
    # Set before torch and huggingface_hub are imported, which read them once.
    if not online:
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["TRANSFORMERS_OFFLINE"] = "1"
    # The work is many small memory-bound steps: on a busy machine two threads take five times as long as one (62 s against
    # 12 s for 168 modules on two shared cores), and on an idle one they gain little.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # torch then asks for huge pages, and large temporaries cost a five-hundredth of the page faults.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
