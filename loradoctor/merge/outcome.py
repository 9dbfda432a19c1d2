"""What came of a merge, as JSON and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from loradoctor import __version__
from loradoctor.checkpoint.wording import counted
from loradoctor.diagnostic import Report
from loradoctor.merge.audit import NAME as AUDIT
from loradoctor.report.escape import jsonable, printable

MERGED, REFUSED, STOPPED = "merged", "refused", "stopped"


@dataclass(frozen=True, slots=True)
class Outcome:
    """``status`` is ``merged``, ``refused`` (nothing was written) or ``stopped`` (what was written waits in ``partial``)."""

    adapters: Sequence[str]
    output: str
    status: str
    reason: str = ""
    report: Report = field(default_factory=Report)
    """what was found of adapter, base and merged model"""
    facts: Mapping[str, object] = field(default_factory=dict)
    """what the torch side says it has written"""
    partial: str = ""


def as_json(outcome: Outcome) -> dict[str, object]:
    """The outcome as plain data: a report like `check`'s, and ``merge``."""
    from loradoctor.report.json_format import document

    merge = {
        "status": outcome.status,
        "reason": outcome.reason or None,
        "adapters": list(outcome.adapters),
        "output": outcome.output,
        "partial": outcome.partial or None,
        **outcome.facts,
    }
    shown = jsonable({**document(outcome.report), "version": 1, "tool": {"name": "loradoctor", "version": __version__}, "merge": merge})
    assert isinstance(shown, dict)  # noqa: S101 -- of a dict it makes a dict
    return shown


def as_text(outcome: Outcome) -> str:
    """The outcome for a terminal; nothing in it can move the cursor. The findings of its report are not in it."""
    return "".join(f"{printable(line)}\n" for line in _lines(outcome))


def _lines(outcome: Outcome) -> Iterator[str]:
    name = " + ".join(outcome.adapters)
    if outcome.status == REFUSED:
        yield f"{name}: not merged, nothing was written" + (f": {outcome.reason}" if outcome.reason else "")
        return
    if outcome.status == STOPPED:
        yield f"{name}: not merged: {outcome.reason}"
        if outcome.partial:
            yield f"  what is done by now is kept in `{outcome.partial}`: the same command goes on from there"
        return
    facts = outcome.facts
    nbytes, seconds = _number(facts.get("bytes")), _number(facts.get("seconds"))
    yield f"{name}: merged into {outcome.output}"
    modules = counted(int(_number(facts.get("modules"))), "module")
    taken = f", {counted(int(_number(facts.get('replaced'))), 'tensor')} taken from the adapter as they are" if facts.get("replaced") else ""
    yield f"  {modules} merged{taken}; {counted(int(_number(facts.get('tensors'))), 'tensor')} of {facts.get('dtype')} in " + counted(
        int(_number(facts.get("shards"))), "file"
    )
    kept = f", {_size(_number(facts.get('kept')))} of it by an earlier run" if facts.get("kept") else ""
    yield f"  {_size(nbytes)} in {seconds:.1f} s{kept}"
    carried = facts.get("carried")
    if isinstance(carried, (list, tuple)) and carried:
        yield f"  carried along: {', '.join(str(c) for c in carried)}"
    for check in outcome.report.checks:
        if check.name == AUDIT:
            yield f"  audit {check.status}: {check.reason}"


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB" if nbytes >= 1e5 else f"{nbytes / 1e3:.1f} kB"
