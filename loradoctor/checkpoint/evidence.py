"""What the torch side learned about an adapter: how it loads, and how each module merges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loradoctor.diagnostic import Check


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """What the installed PEFT does with the adapter on the base model.

    ``status`` is ``fully``, ``partly``, ``not-at-all`` or ``raises``; ``loaded`` of ``total`` tensors of the file reach the model.
    """

    status: str
    loaded: int = 0
    total: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    overwritten: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class ModuleMerge:
    """Merged against unmerged for one targeted module; lengths are Frobenius norms in the units of the weight."""

    module: str
    status: str
    reason: str = ""
    error: float | None = None
    bound: float | None = None
    effect: float | None = None
    lost: float | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything the torch side reports about one checkpoint; rules read it, nothing else does."""

    base: str | None = None
    loads: LoadOutcome | None = None
    merge: tuple[ModuleMerge, ...] = ()
    checks: tuple[Check, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
