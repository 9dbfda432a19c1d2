"""The `checks` entries of an adapter: what was looked at and how it ended, so that silence means something."""

from __future__ import annotations

from collections.abc import Iterable

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods import UNKNOWN
from loradoctor.checkpoint.values import readable
from loradoctor.diagnostic import Check, Diagnostic, Severity
from loradoctor.registry import family

_CODES = {
    "files": ("LD50", "LD51"),
    "config": ("LD52", "LD530"),
    "keys": ("LD60", "LD610", "LD612", "LD613", "LD614"),
    "shapes": ("LD611",),
    "values": ("LD70",),
}
_ONLY_WITH_BASE = frozenset({"LD604", "LD615", "LD616", "LD617", "LD618"})


def of(checkpoint: Checkpoint, found: Iterable[Diagnostic], *, ran: frozenset[str], asked: bool) -> tuple[Check, ...]:
    """One entry per check; ``ran`` are the codes of the rules that were enabled, ``asked`` whether the torch side was."""
    found = list(found)
    entries = [_entry(checkpoint, name, found, ran) for name in _CODES]
    evidence = checkpoint.evidence
    entries += evidence.checks if evidence is not None else ()
    named = {e.name for e in entries}
    for name in ("loads", "merge-equivalence"):
        if name not in named:
            entries.append(_not_asked(checkpoint, name, _proves_nothing(checkpoint, found, ran), asked=asked))
    return tuple(entries)


def _not_asked(checkpoint: Checkpoint, name: str, vacuous: str | None, *, asked: bool) -> Check:
    """The entry of a check that only the torch side can do, when it was not asked or said nothing."""
    if name == "merge-equivalence" and vacuous:
        return Check(checkpoint.path, name, "vacuous", vacuous)
    return Check(
        checkpoint.path,
        name,
        "not-run",
        "the torch side gave no answer" if asked else "`--no-base`: the base model was not looked at",
    )


def _proves_nothing(checkpoint: Checkpoint, found: list[Diagnostic], ran: frozenset[str]) -> str | None:
    """Why equality of merged and unmerged would mean nothing; rules that were switched off are asked all the same."""
    errors = [d for d in found if d.severity is Severity.ERROR and d.code.startswith(("LD5", "LD6", "LD7"))]
    if errors:
        return errors[0].message
    if all(rule.code in ran for rule in family("checkpoint")):
        return None
    try:
        return checkpoint.structurally_broken or checkpoint.effectless
    except Exception:  # noqa: BLE001 -- a rule that crashed is LD002 already
        return None


def _entry(checkpoint: Checkpoint, name: str, found: list[Diagnostic], ran: frozenset[str]) -> Check:
    codes = _CODES[name]
    bad = [d for d in found if d.code.startswith(codes) and d.code not in _ONLY_WITH_BASE and d.severity is not Severity.INFO]
    crashed = [d for d in found if d.code == "LD002" and str(d.data.get("rule", "")).startswith(codes)]
    reason = _missing(checkpoint, name)
    if bad:
        return Check(checkpoint.path, name, "failed", ", ".join(dict.fromkeys(f"{d.code} {d.name}" for d in bad)))
    if crashed:
        return Check(checkpoint.path, name, "not-run", crashed[0].message)
    if not any(code.startswith(codes) for code in ran):
        return Check(checkpoint.path, name, "not-run", "its rules are switched off")
    if reason:
        return Check(checkpoint.path, name, "not-run", reason)
    return Check(checkpoint.path, name, "passed", _seen(checkpoint, name))


def _missing(checkpoint: Checkpoint, name: str) -> str:
    """Why a check could not be done, ``""`` when it was."""
    if name == "files":
        return ""
    if name == "config" and checkpoint.config is not None and checkpoint.foreign is not None and checkpoint.method is UNKNOWN:
        return "the config is another tool's"
    if name == "config":
        return "" if checkpoint.config is not None else "there is no config to read"
    if not checkpoint.tensors:
        return "there are no tensors to look at"
    if name == "values":
        if checkpoint.values_failure:
            return checkpoint.values_failure
        unknown = sorted({i.dtype for i in checkpoint.tensors.values() if not readable(i)})
        return f"values of dtype {', '.join(unknown)} cannot be read" if unknown else ""
    if checkpoint.foreign is not None:
        return "the tensors are another tool's"
    if checkpoint.config is None:
        return "there is no config to hold the tensors against"
    if checkpoint.method is UNKNOWN:
        return f"`{checkpoint.config.peft_type}` is not a method that this version knows"
    return ""


def _seen(checkpoint: Checkpoint, name: str) -> str:
    count = len(checkpoint.tensors)
    if name == "files":
        return checkpoint.weights.name if checkpoint.weights is not None else ""
    if name == "values" and checkpoint.spectra():
        return f"{count} tensors, the updates of {len({s.module for s in checkpoint.spectra()})} modules"
    return f"{count} tensors" if name != "config" else ""
