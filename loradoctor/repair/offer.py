"""After `check`: which of the adapters it found something in `repair` would put right, from the files alone."""

from __future__ import annotations

import shlex
from dataclasses import replace

from loradoctor.checkpoint.layout import TargetError
from loradoctor.diagnostic import Report, Severity, Subject
from loradoctor.repair.run import RepairOptions, repair

_STRUCTURAL = ("LD5", "LD6")


def offered(report: Report) -> Report:
    """``report`` with the fact ``repair``, the command to use, on every subject that a repair would put right."""
    broken = {d.subject for d in report.at_least(Severity.WARNING) if d.code.startswith(_STRUCTURAL)}
    if not broken:
        return report
    return replace(report, subjects=tuple(_offer(s) if s.path in broken else s for s in report.subjects))


def _offer(subject: Subject) -> Subject:
    try:
        outcomes = repair(subject.path, RepairOptions(dry_run=True, base="none"))
    except TargetError:
        return subject
    if not outcomes or any(one.status != "planned" for one in outcomes):
        return subject
    command = f"loradoctor repair {shlex.quote(subject.path)} --output NEW"
    return replace(subject, facts={**subject.facts, "repair": f"`{command}` writes a corrected copy"})
