"""How far a merge is: a bar with throughput and time left on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from loradoctor.report.escape import printable

Watch = Callable[[Mapping[str, Any]], None]
_WIDTH = 40


@contextmanager
def bar(*, moving: bool) -> Iterator[Watch]:
    """What to call with every event of the torch side; draws on standard error while the block runs if ``moving``."""
    if not moving:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    what = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), what, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None)

        def watch(event: Mapping[str, Any]) -> None:
            text = printable(str(event.get("progress", "")))
            shown = text if len(text) <= _WIDTH else f"…{text[1 - _WIDTH :]}"
            progress.update(task, description=shown, completed=event.get("done"), total=event.get("of"))

        yield watch
