"""The audit of a merged model that exists: what the torch side found, and the ``merged-copy`` entry of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loradoctor.diagnostic import Check
from loradoctor.merge.summary import LOST_ERROR

NAME = "merged-copy"

_OF_FILES = frozenset({"empty", "adapter", "no-index", "unreadable", "torn", "missing", "no-config", "shape", "quantization-config",
                       "adapter-config", "adapter-tensors", "wrapper-tensors", "unknown-tensors"})  # fmt: skip
"""causes that hold whatever the adapter is"""

_NOTES = {
    "cast": "{} cast to another dtype",
    "resized": "{} with more or fewer tokens",
    "transposed": "{} stored transposed",
    "renamed": "{} under other names",
    "tied": "{} stored with what they are tied to",
    "not-in-model": "{} of the base that are no part of the model",
    "new": "{} that neither base nor adapter has",
}
"""why a tensor may differ and all be well"""


@dataclass(frozen=True, slots=True)
class AuditFault:
    """One cause: ``examples`` are (tensor, file) of some of the ``count`` tensors.

    ``coefficient`` is ŝ = ⟨M-W, Δ⟩/⟨Δ, Δ⟩ and ``residual`` ‖M-W-ŝΔ‖/‖Δ‖ over all of them, None where there is no update.
    """

    cause: str
    count: int = 0
    examples: tuple[tuple[str, str | None], ...] = ()
    coefficient: float | None = None
    residual: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Audit:
    """What the torch side says of the merged model in ``directory``; ``lost``, ``worst`` and ``effect`` as in ``oracle.audit``."""

    directory: str
    status: str
    reason: str = ""
    faults: tuple[AuditFault, ...] = ()
    tensors: int = 0
    touched: int = 0
    bytes: int = 0
    explained: Mapping[str, int] = field(default_factory=dict)
    coefficient: float | None = None
    lost: float | None = None
    worst: float | None = None
    effect: float | None = None

    def named(self, *causes: str) -> tuple[AuditFault, ...]:
        """The faults with one of these causes."""
        return tuple(f for f in self.faults if f.cause in causes)


def read(answer: Mapping[str, Any], directory: str, *, broken: str = "", effectless: str = "") -> Audit:
    """The audit in the torch side's ``answer``.

    ``broken`` is why the adapter itself cannot be trusted to say what is right, ``effectless`` why it changes nothing.
    """
    faults = tuple(
        AuditFault(
            cause=raw["cause"],
            count=raw["count"],
            examples=tuple(zip(raw["examples"], raw["files"], strict=True)),
            coefficient=raw["coefficient"],
            residual=raw["residual"],
            detail=raw["detail"],
        )
        for raw in answer["faults"]
    )
    status, reason = str(answer["status"]), str(answer["reason"])
    if broken:
        faults = tuple(f for f in faults if f.cause in _OF_FILES)
        status, reason = ("failed", "") if faults else ("vacuous", broken)
    elif status == "passed" and effectless:
        status, reason = "vacuous", f"{effectless}: the merged model is the base, as it should be"
    return Audit(
        directory,
        status,
        reason,
        faults,
        tensors=int(answer.get("tensors", 0)),
        touched=int(answer.get("touched", 0)),
        bytes=int(answer.get("bytes", 0)),
        explained=answer.get("explained", {}),
        coefficient=answer.get("coefficient"),
        lost=answer.get("lost"),
        worst=answer.get("worst"),
        effect=answer.get("effect"),
    )


def summarise(subject: str, audit: Audit) -> Check:
    """The ``merged-copy`` entry: ``passed`` only when every tensor was compared and is what it should be.

    ``measured`` is ‖M-T‖/‖Δ‖, the distance of the merged weights from the exact merge over the norm of the update, and ``bound`` what
    rounding may take of it; where tensors are missing, left over or changed, their number and 0. ``effect`` is ‖Δ‖/‖W‖.
    """
    if audit.status == "passed":
        return Check(subject, NAME, "passed", _seen(audit), audit.lost, LOST_ERROR if audit.lost is not None else None, audit.effect)
    if audit.status != "failed":
        return Check(subject, NAME, audit.status, audit.reason, effect=audit.effect)
    measured, bound = _shown(audit)
    reason = ", ".join(f"{f.cause} ({f.count} {_tensors(f.count)})" if f.count else f.cause for f in audit.faults)
    return Check(subject, NAME, "failed", reason, measured, bound, audit.effect)


def _shown(audit: Audit) -> tuple[float | None, float | None]:
    if any(f.coefficient is not None for f in audit.faults) and audit.worst is not None and audit.worst > LOST_ERROR:
        return audit.worst, LOST_ERROR
    return float(max((f.count for f in audit.faults), default=0) or 1), 0.0


def _seen(audit: Audit) -> str:
    notes = [text.format(audit.explained[kind]) for kind, text in _NOTES.items() if audit.explained.get(kind)]
    same = audit.tensors - audit.touched
    text = f"{audit.touched} {_tensors(audit.touched)} are base plus update, {same} are the base's"
    return f"{text} ({', '.join(notes)})" if notes else text


def _tensors(count: int) -> str:
    return "tensor" if count == 1 else "tensors"


def examples(faults: Sequence[AuditFault], shown: int = 3) -> str:
    """Up to ``shown`` tensors, and how many more there are."""
    names = [name for f in faults for name, _ in f.examples][:shown]
    more = sum(f.count for f in faults) - len(names)
    listed = ", ".join(f"`{name}`" for name in names)
    return f"{listed} and {more} more" if more > 0 and names else listed
