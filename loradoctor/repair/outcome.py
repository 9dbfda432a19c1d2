"""What came of a repair: everything that changed, what was proved, what is left; as JSON and as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loradoctor import __version__
from loradoctor.checkpoint.wording import counted
from loradoctor.repair.plan import ABSENT, Drop, Plan, TensorStep
from loradoctor.repair.proof import FAILED, Proof
from loradoctor.report.escape import jsonable, printable

REPORT = "repair-report.json"
_SHOWN = 3
"""Tensors of one kind of change that the text names; the JSON has them all."""

_FIELDS = 10
_TELLING = frozenset({"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_dora", "use_rslora"})
"""Of a config that is written anew, the fields that a reader wants to see; up to ``_FIELDS`` changes are all shown."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``status``: ``repaired``, ``planned`` (a dry run), ``nothing-to-do``, ``refused`` or ``not-proved``.

    ``remaining`` are errors that the result still has because no rearrangement can remove them.
    """

    path: str
    output: str
    status: str
    plan: Plan
    proofs: tuple[Proof, ...] = ()
    remaining: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    left: tuple[Drop, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether there is something wrong that was not repaired."""
        return self.status in ("refused", "not-proved") or (self.status == "nothing-to-do" and bool(self.remaining))


def as_json(outcome: Outcome) -> dict[str, object]:
    """The report as plain data."""
    plan = outcome.plan
    return {
        "version": 1,
        "tool": {"name": "loradoctor", "version": __version__},
        "adapter": jsonable(outcome.path),
        "output": jsonable(outcome.output),
        "status": outcome.status,
        "changes": {
            "files": [jsonable(f) for f in plan.files],
            "tensors": [_tensor(step) for step in plan.tensors if step.why],
            "config": [
                {"field": jsonable(s.field), "old": _value(s.old), "new": _value(s.new), "why": jsonable(s.why)} for s in plan.config_steps
            ],
            "dropped": [{"name": jsonable(d.name), "why": jsonable(d.why), "file": d.is_file} for d in (*plan.drops, *outcome.left)],
        },
        "carried": [jsonable(name) for name in outcome.carried],
        "notes": [jsonable(note) for note in plan.notes],
        "refused": [{"what": jsonable(r.what), "evidence": jsonable(r.evidence)} for r in plan.refusals],
        "proof": [{"name": p.name, "status": p.status, "detail": jsonable(p.detail)} for p in outcome.proofs],
        "remaining": [jsonable(text) for text in outcome.remaining],
    }


def _tensor(step: TensorStep) -> dict[str, object]:
    return {
        "name": jsonable(step.target),
        "from": [jsonable(s.name) for s in step.sources],
        "transforms": [t.kind for s in step.sources for t in s.transforms] + [t.kind for t in step.transforms],
        "why": jsonable(step.why),
    }


def _value(value: object) -> object:
    return {"absent": True} if value is ABSENT else jsonable(value)


def as_text(outcome: Outcome) -> str:
    """The report for a terminal; nothing in it can move the cursor."""
    return "".join(f"{printable(line)}\n" for line in _lines(outcome))


def _lines(outcome: Outcome) -> Iterator[str]:
    plan = outcome.plan
    yield {
        "repaired": f"{outcome.path}: repaired into {outcome.output}",
        "planned": f"{outcome.path}: would be repaired",
        "nothing-to-do": f"{outcome.path}: nothing to repair" if not outcome.remaining else f"{outcome.path}: nothing that can be repaired",
        "refused": f"{outcome.path}: not repaired, nothing was written",
        "not-proved": f"{outcome.path}: not repaired, the result could not be proved right",
    }[outcome.status]
    for refusal in plan.refusals[:_SHOWN]:
        yield f"  cannot: {refusal.what}"
        if refusal.evidence:
            yield f"     what would decide: {refusal.evidence}"
    if len(plan.refusals) > _SHOWN:
        yield f"  and {counted(len(plan.refusals) - _SHOWN, 'more reason')}"
    if outcome.status in ("repaired", "planned", "not-proved"):
        yield from _changes(plan, outcome.left)
    for note in plan.notes:
        yield f"  note: {note}"
    for proof in outcome.proofs:
        yield f"  {'FAILED' if proof.status == FAILED else proof.status} {proof.name}: {proof.detail}"
    for text in outcome.remaining:
        yield f"  beyond repair: {text}"


def _changes(plan: Plan, left: Sequence[Drop]) -> Iterator[str]:
    for change in plan.files:
        yield f"  file: {change}"
    kinds: dict[str, list[TensorStep]] = {}
    for made in plan.tensors:
        if made.why:
            kinds.setdefault(made.why, []).append(made)
    for why, steps in kinds.items():
        yield f"  {counted(len(steps), 'tensor')}: {why}"
        for one in steps[:_SHOWN]:
            before = " + ".join(s.name for s in one.sources)
            yield f"      {before} -> {one.target}" if before != one.target else f"      {one.target}"
        if len(steps) > _SHOWN:
            yield f"      and {len(steps) - _SHOWN} more"
    many = len(plan.config_steps) > _FIELDS
    shown = [step for step in plan.config_steps if not many or step.field in _TELLING]
    for step in shown:
        yield f"  config: {step.field}: {_shown(step.old)} -> {_shown(step.new)} ({step.why})"
    if many:
        yield f"  config: and {len(plan.config_steps) - len(shown)} more fields, which `{REPORT}` lists"
    for drop in (*plan.drops, *left):
        yield f"  left out: {drop.name} ({drop.why})"


def _shown(value: object) -> str:
    import json

    if value is ABSENT:
        return "(not there)"
    text = json.dumps(jsonable(value), ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
