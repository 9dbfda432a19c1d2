"""What ``check`` looked at, so that a clean run is worth reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loradoctor.diagnostic import Check, Subject
from loradoctor.report.escape import printable
from loradoctor.report.merges import merges
from loradoctor.report.palette import Palette
from loradoctor.report.updates import updates

_LABELS = {
    "method": "method",
    "base": "base model",
    "fits": "fits",
    "task_type": "task type",
    "r": "rank",
    "alpha": "alpha",
    "scaling": "scaling",
    "modules": "modules",
    "parameters": "parameters",
    "dtypes": "dtypes",
    "bytes": "size",
    "peft_version": "PEFT version",
}
"""Facts in the order they are read in; others follow under their own names."""

_ENTRIES = {"modules": "{value} {key}", "dtypes": "{key} in {value} tensors", "rank": "{key} in {value} modules"}
"""How one entry of a mapping reads, where ``key: value`` would not say enough."""

_LOADERS, _UPDATES, _MERGE = _TABLES = "loaders", "updates", "merge"
_WHAT = "what"
"""Stands in the first line."""
_MANY = 12
_FEW = 3
_REASON = 200
"""Characters of a reason: a longer one repeats a finding that is printed in full below."""
_NESTED = 3


def card(subject: Subject, checks: Sequence[Check], paint: Palette, *, detailed: bool = False) -> list[str]:
    """The facts of one subject and the outcome of every check made on it; the tables of updates and merges only when ``detailed``."""
    facts = [(label, subject.facts.get(key)) for key, label in _LABELS.items()]
    facts += [(key.replace("_", " "), value) for key, value in subject.facts.items() if key not in (*_LABELS, *_TABLES, _WHAT)]
    rows = [(label, _names(value) if label == "fits" else _value(label, value)) for label, value in facts]
    if subject.facts.get("pinned") is False:
        rows = [(label, f"{text} (no commit is pinned)" if label == "base model" else text) for label, text in rows]
    rows = [(label, text) for label, text in rows if text]
    width = max((len(label) for label, _ in rows), default=0)
    kind = printable(str(subject.facts.get(_WHAT) or subject.kind.replace("-", " ")))
    lines = [f"{paint('bold', printable(subject.path))} {paint('dim', f'({kind})')}"]
    lines += [f"  {paint('dim', printable(label).ljust(width))}  {text}" for label, text in rows]
    shown = [*updates(subject.facts.get(_UPDATES), paint), *merges(subject.facts.get(_MERGE), paint)] if detailed else []
    return lines + shown + _loaders(subject.facts.get(_LOADERS), paint) + _outcomes(checks, paint)


def _loaders(rows: object, paint: Palette) -> list[str]:
    """One line per loader; nothing when none was run, which the checks explain."""
    rows = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    if all(row["status"] == "not-run" for row in rows):
        return []
    width = max(len(row["loader"]) for row in rows)
    lines = [f"  {paint('dim', 'loaders')}"]
    for row in rows:
        run = row["status"] != "not-run"
        role = ("passed" if row["status"] == "full" else "failed") if run else "not-run"
        count = f"{row['loaded']:,} of {row['of']:,} tensors" if run and row["status"] != "raises" else ""
        text = "; ".join(filter(None, (count, printable(row["reason"], _REASON))))
        status = row["status"].replace("-", " ").ljust(7)
        lines.append(f"    {row['loader'].ljust(width)}  {paint(role, status)}  {text}".rstrip())
    return lines


def _outcomes(checks: Sequence[Check], paint: Palette) -> list[str]:
    width = max((len(c.name) for c in checks), default=0)
    lines = [f"  {paint('dim', 'checks')}"] if checks else []
    for check in checks:
        status = check.status.replace("-", " ").ljust(7)
        numbers = [
            f"{label} {value:.3g}"
            for label, value in (("measured", check.measured), ("bound", check.bound), ("effect", check.effect))
            if value is not None
        ]
        reason = printable(check.reason, _REASON) + (f" ({', '.join(numbers)})" if numbers else "")
        lines.append(f"    {printable(check.name).ljust(width)}  {paint(check.status, status)}  {reason.strip()}".rstrip())
    return lines


def _value(label: str, value: object, depth: int = 0) -> str:
    if value is None or value == "" or depth > _NESTED:
        return ""
    if isinstance(value, bool):
        # What an adapter is not says nothing about it.
        return "yes" if value else ""
    if isinstance(value, int):
        return size(value) if label == "size" else f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return _several([_entry(label, k, v, depth) for k, v in value.items()])
    if isinstance(value, (list, tuple, set, frozenset)):
        return _several([_value(label, v, depth + 1) for v in value])
    return printable(str(value))


def _entry(label: str, key: object, value: object, depth: int) -> str:
    return _ENTRIES.get(label, "{key}: {value}").format(key=printable(str(key)), value=_value("", value, depth + 1))


def _names(value: object) -> str:
    """The first few of a list: models of one shape are many."""
    names = [printable(str(v)) for v in value] if isinstance(value, list) else []
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more of that shape" if len(names) > _FEW else "")


def _several(parts: list[str]) -> str:
    parts = [p for p in parts if p]
    rest = f", and {len(parts) - _MANY} more" if len(parts) > _MANY else ""
    return ", ".join(parts[:_MANY]) + rest


def size(count: int) -> str:
    """A number of bytes as people say it: ``1.5 MB`` is 1,500,000 bytes."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{count} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
