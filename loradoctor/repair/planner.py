"""From what was read to a plan: every step in order, then the question whether an error is left."""

from __future__ import annotations

from loradoctor import engine
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.evidence import Evidence
from loradoctor.diagnostic import Diagnostic, Severity
from loradoctor.registry import family
from loradoctor.repair.arrays import Inexact
from loradoctor.repair.draft import Draft
from loradoctor.repair.plan import Plan, TensorStep
from loradoctor.repair.steps import STEPS
from loradoctor.repair.steps.soundness import soundness
from loradoctor.repair.wishes import Wishes

_FILES = frozenset({"LD501", "LD502", "LD503", "LD504", "LD505", "LD506", "LD507", "LD510"})
"""About the files as they lie there: what is written is judged when it is there."""


def make(start: Plan, read: Checkpoint, wishes: Wishes, evidence: Evidence | None = None, examined: Plan | None = None) -> Plan:
    """The plan that repairs what ``start`` would write.

    With ``evidence``, which is what PEFT made of the plan ``examined`` on the base model, also what only that can decide.
    """
    draft = Draft(start, read, wishes, evidence)
    if not start.tensors or not start.config:
        _nothing_there(draft, read)
        return draft.plan()
    soundness(draft)
    if draft.refusals:
        return draft.plan()
    try:
        for step in STEPS:
            step(draft)
        if examined is None or not alike(draft.plan(), examined):
            # What PEFT said about another adapter than this says nothing about it.
            draft.forget()
        _unrepaired(draft)
    except Inexact as error:
        draft.refuse(str(error))
    return draft.plan()


def judged(plan: Plan, read: Checkpoint, wishes: Wishes, evidence: Evidence) -> Plan:
    """``plan`` with a refusal for every error that PEFT's verdict on it shows."""
    draft = Draft(plan, read, wishes, evidence)
    _unrepaired(draft)
    return draft.plan()


def alike(one: Plan, other: Plan) -> bool:
    """Whether two plans write the same adapter."""
    return one.config == other.config and sorted(map(_made, one.tensors)) == sorted(map(_made, other.tensors))


def _made(step: TensorStep) -> str:
    return repr((step.target, step.sources, step.transforms, step.axis))


def _nothing_there(draft: Draft, read: Checkpoint) -> None:
    for found in _findings(read):
        if found.severity is Severity.ERROR and not draft.refusals:
            draft.refuse(found.message, found.help)
    if not draft.refusals:
        draft.refuse("there are no tensors of an adapter here", "the weights, from where they were saved")


def _unrepaired(draft: Draft) -> None:
    """Errors that no step has removed: a result with them would not be a repaired one."""
    if draft.refusals:
        return
    for found in _findings(draft.checkpoint):
        if found.severity is Severity.ERROR:
            draft.refuse(found.message, found.help)
        elif found.severity is Severity.WARNING:
            draft.note(f"left as it is: {found.message}")


def _findings(checkpoint: Checkpoint) -> list[Diagnostic]:
    """What `check` would find in config, keys and shapes; a rule that crashes counts, for then nobody knows."""
    rules = [r for r in family("checkpoint") if r.code.startswith(("LD5", "LD6")) and r.code not in _FILES]
    return engine.run(rules, checkpoint, checkpoint.path)
