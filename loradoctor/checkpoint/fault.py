"""A fault met while files were read: reading goes on, the rule of the same name reports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fault:
    """``kind`` is the name of the rule that reports it; ``file`` is relative to the checkpoint's directory."""

    kind: str
    message: str
    help: str = ""
    file: str = ""
    key: str | None = None
    data: Mapping[str, object] = field(default_factory=dict)


class ReadError(Exception):
    """A file that cannot be understood; carries the :class:`Fault` to report."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault
