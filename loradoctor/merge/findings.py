"""What the merge rules share: which modules are concerned, and how a finding about them is worded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from loradoctor.checkpoint.evidence import ModuleMerge
from loradoctor.diagnostic import Finding, Severity

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint


def modules(checkpoint: Checkpoint, wanted: Callable[[ModuleMerge], bool]) -> tuple[ModuleMerge, ...]:
    """The examined modules that ``wanted`` picks; none when nothing was examined."""
    return tuple(m for m in checkpoint.evidence.merge if wanted(m)) if checkpoint.evidence is not None else ()


def replicated(checkpoint: Checkpoint) -> bool:
    """Whether the adapter stands on layers that share their weights."""
    return checkpoint.config is not None and bool(checkpoint.config.get("layer_replication"))


def finding(
    checkpoint: Checkpoint,
    found: Sequence[ModuleMerge],
    message: str,
    help_: str,
    severity: Severity | None = None,
    **data: object,
) -> Finding:
    """A finding about ``found``: placed at the first module, naming up to three."""
    names = ", ".join(f"`{m.module}`" for m in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return checkpoint.finding(
        f"{message}: {names}{more}",
        found[0].module,
        help=help_,
        severity=severity,
        data={**data, "count": len(found), "examples": [m.module for m in found[:3]], "module": found[0].module},
    )


def worst(found: Sequence[ModuleMerge]) -> float | None:
    """The largest relative difference among them."""
    return max((m.difference for m in found if m.difference is not None), default=None)
