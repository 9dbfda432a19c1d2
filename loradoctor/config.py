"""`[tool.loradoctor]` as a frozen value; an unknown key or code is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loradoctor.diagnostic import Severity


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run looks for and where; codes are resolved, paths are as the user wrote them."""

    select: frozenset[str] | None = None
    ignore: frozenset[str] = frozenset()
    fail_on: Severity = Severity.WARNING
    exclude: tuple[str, ...] = ()
    respect_gitignore: bool = True
    per_path_ignores: Mapping[str, frozenset[str]] = field(default_factory=dict)
    python: str | None = None

    def enabled(self, code: str) -> bool:
        """Whether rules with this code run at all."""
        return (self.select is None or code in self.select) and code not in self.ignore
