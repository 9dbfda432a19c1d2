"""`--fix` and `--diff`: fixes applied until nothing changes, proven harmless, and written back whole or not at all."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loradoctor import fixes
from loradoctor.config import Settings
from loradoctor.diagnostic import Diagnostic, Edit, Finding, Fix, Location, Report
from loradoctor.engine import stamp
from loradoctor.lint import files
from loradoctor.lint.pipeline import Pipeline
from loradoctor.self_report import check_did_not_complete, unparsable_source, unreadable_file

if TYPE_CHECKING:
    from loradoctor.lint.source import Source

# A fix can uncover another finding with a fix; more rounds than this mean that two fixes undo each other.
MAX_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class FixOutcome:
    """What a fix run did.

    ``report`` is about the files as they are on disk afterwards, ``diff`` a patch from before to after, ``changed`` the
    files that were written, ``failed`` what could not be written and was left as it was. A finding whose fix was not proven
    harmless stays in the report and says so.
    """

    report: Report
    changed: tuple[str, ...] = ()
    diff: str = ""
    failed: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True, slots=True)
class Repair:
    """One file after its fixes: the new bytes, the report on them, and the diagnostics whose fix was refused."""

    data: bytes
    report: Report
    refused: tuple[Diagnostic, ...] = ()


def fix(paths: Sequence[str], settings: Settings, *, unsafe: bool, diff: bool) -> FixOutcome:
    """Apply the safe fixes, with ``unsafe`` all fixes, to the files that ``paths`` mean; with ``diff`` only show them.

    Raises nothing for a file that cannot be read, fixed or written: it is reported and left.
    """
    from loradoctor.lint.run import lint

    pipeline = Pipeline(settings)
    report = lint(paths, settings)
    fixable = dict.fromkeys(d.location.path for d in report.diagnostics if _applies(d.fix, unsafe))
    changed: list[str] = []
    failed: list[Diagnostic] = []
    patches: list[str] = []
    repaired: dict[str, Report] = {}
    refused: set[tuple[object, ...]] = set()
    for path in _once(fixable):
        try:
            before = files.read(path)
        except OSError as error:
            failed.append(_not_written(path, files.reason(error)))
            continue
        outcome = repair(path, before, pipeline, unsafe=unsafe)
        refused |= {_identity(d) for d in outcome.refused}
        if outcome.data == before:
            repaired[path] = outcome.report  # it may have been repaired by somebody else, since it was linted
            continue
        patches.append(unified_diff(_patched(path), before, outcome.data))
        if diff:
            continue
        if problem := replace_file(path, before, outcome.data):
            failed.append(_not_written(path, problem))
            continue
        changed.append(path)
        repaired[path] = outcome.report
    if changed:
        others = [path for path in fixable if path not in repaired and os.path.realpath(path) in {os.path.realpath(p) for p in changed}]
        repaired |= {path: again for path in others if (again := pipeline.file(path)) is not None}
    report = _merged(report, repaired)
    report = replace(report, diagnostics=tuple(_explained(d, refused) for d in report.diagnostics))
    return FixOutcome(report, tuple(changed), "".join(patches), tuple(failed))


def repair(path: str, data: bytes, pipeline: Pipeline, *, unsafe: bool) -> Repair:
    """Apply fixes and look again until there is nothing left to fix.

    A round is taken back when its result does not parse, loses a comment or still has what it was to repair; its fixes are then
    tried one by one.
    """
    report = pipeline.examine(path, data)
    refused: dict[tuple[object, ...], Diagnostic] = {}
    seen = {data}
    for _ in range(MAX_ROUNDS):
        wanted = [d for d in report.diagnostics if _applies(d.fix, unsafe) and _identity(d) not in refused]
        step = _step(path, data, report, _compatible(wanted), pipeline)
        if step is None:
            for one in wanted:
                step = _step(path, data, report, [one], pipeline)
                if step is not None:
                    break
                refused[_identity(one)] = one
        if step is None or step[0] in seen:
            break
        data, report = step
        seen.add(data)
    return Repair(data, report, tuple(refused.values()))


def _applies(fix: Fix | None, unsafe: bool) -> bool:
    return fix is not None and bool(fix.edits) and (fix.safe or unsafe)


def _identity(found: Diagnostic) -> tuple[object, ...]:
    return (found.code, found.message, found.fix)


def _compatible(found: Iterable[Diagnostic]) -> list[Diagnostic]:
    """The first of the diagnostics, and every later one whose fix shares no byte with those taken before it."""
    chosen: list[Diagnostic] = []
    taken: list[Edit] = []
    for one in found:
        edits = one.fix.edits if one.fix else ()
        if not any(_meet(a, b) for a in edits for b in taken):
            chosen.append(one)
            taken += edits
    return chosen


def _meet(a: Edit, b: Edit) -> bool:
    # Edits that merely touch are kept apart too: what one inserts may belong to what the other replaces.
    return a != b and a.cell == b.cell and a.start <= b.end and b.start <= a.end


def _step(path: str, data: bytes, report: Report, chosen: list[Diagnostic], pipeline: Pipeline) -> tuple[bytes, Report] | None:
    """The file with the fixes of ``chosen`` applied and the report on it; None when that would harm the file."""
    from loradoctor.lint.source import Source, SourceError

    if not chosen:
        return None
    try:
        before = Source.from_bytes(path, data)
        new = applied(before, [edit for d in chosen if d.fix for edit in d.fix.edits])
        after = Source.from_bytes(path, new)
    except (SourceError, ValueError):
        return None
    examined = pipeline.examine(path, new)
    if new == data or _trouble(examined) > _trouble(report) or lost_comments(before, after):
        return None
    had, repaired, has = (_counted(found) for found in (report.diagnostics, chosen, examined.diagnostics))
    return None if any(has[what] > had[what] - repaired[what] for what in repaired) else (new, examined)


def _counted(found: Iterable[Diagnostic]) -> Counter[tuple[str, str]]:
    return Counter((d.code, d.message) for d in found)


def applied(source: Source, edits: Iterable[Edit]) -> bytes:
    """The file's bytes with the edits applied. Raises ValueError when they overlap or lie outside."""
    by_cell: dict[int | None, list[Edit]] = {}
    for edit in edits:
        by_cell.setdefault(edit.cell, []).append(edit)
    if source.kind != "notebook":
        return fixes.apply(source.data, [_encoded(e, source.encoding) for e in by_cell.get(None, [])])
    from loradoctor.lint.notebook import replace_sources

    cells = {cell.index: cell.source.encode("utf-8", "surrogatepass") for cell in source.cells}
    if not by_cell.keys() <= cells.keys():
        raise ValueError("an edit names a cell that holds no code")
    new = {i: fixes.apply(cells[i], of_cell).decode("utf-8", "surrogatepass") for i, of_cell in by_cell.items() if i is not None}
    return replace_sources(source.data, new)


def _encoded(edit: Edit, encoding: str) -> Edit:
    if encoding == "utf-8" or edit.text.isascii():
        return edit
    raise ValueError(f"the fix inserts text that may not exist in {encoding}")


def lost_comments(before: Source, after: Source) -> Counter[str]:
    """The comments of ``before`` that ``after`` has fewer of."""
    from loradoctor.lint.suppress import comments

    return Counter(c for _, c in comments(before.text)) - Counter(c for _, c in comments(after.text))


def _trouble(report: Report) -> int:
    codes = (unparsable_source.code, check_did_not_complete.code, unreadable_file.code)
    return sum(d.code in codes for d in report.diagnostics)


def unified_diff(path: str, before: bytes, after: bytes) -> str:
    """A patch that ``patch -p1`` and ``git apply`` take, from one state of the file to the other."""
    from difflib import unified_diff as lines_of

    # Only "\n" ends a line of a patch; str.splitlines would cut at form feeds and the like.
    old, new = (text.decode("utf-8", "surrogateescape").split("\n") for text in (before, after))
    old, new = ([*(line + "\n" for line in text[:-1]), *filter(None, text[-1:])] for text in (old, new))
    lines = lines_of(old, new, _quoted(f"a/{path.lstrip('/')}"), _quoted(f"b/{path.lstrip('/')}"))
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _quoted(name: str) -> str:
    """The name as git writes it in a patch: quoted when it holds what would end it."""
    name = name.replace(os.sep, "/")
    if not any(c in '"\\' or ord(c) < 32 or ord(c) == 127 for c in name):
        return name + ("\t" if " " in name else "")
    octets = name.encode("utf-8", "surrogateescape")
    plain = (chr(b) if 32 <= b < 127 and chr(b) not in '"\\' else f"\\{b:03o}" for b in octets)
    return f'"{"".join(plain)}"'


def _once(paths: Iterable[str]) -> list[str]:
    """Every file by one of its names: links to a file would fix it, or show its patch, again."""
    names: dict[str, str] = {}
    for path in paths:
        real = os.path.realpath(path)
        if real not in names or not os.path.islink(path):  # noqa: PTH114 -- as reached
            names[real] = path
    return list(names.values())


def _patched(path: str) -> str:
    """The path to write in a patch: programs that apply one refuse links."""
    if not os.path.islink(path):  # noqa: PTH114
        return path
    real = os.path.realpath(path)
    return real if os.path.isabs(path) else os.path.relpath(real)  # noqa: PTH117


def replace_file(path: str, before: bytes, after: bytes) -> str:
    """Put ``after`` in the place of the file in one step; says why not, or nothing when it was done.

    At any moment, also when this is killed, the file holds one or the other. Its mode is kept, and its owner where that is allowed. What
    a symbolic link points to is replaced, not the link; other hard links to the file keep what they have. A file that is read-only or
    no longer holds ``before`` is left alone.
    """
    try:
        real = os.path.realpath(path, strict=True)
        status = os.stat(real)  # noqa: PTH116
        if not stat.S_ISREG(status.st_mode):
            return "it is no longer a file"
        if not status.st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) or not os.access(real, os.W_OK):
            return "it is read-only"
        return _swap(real, status, before, after)
    except OSError as error:
        return files.reason(error)


def _swap(path: str, status: os.stat_result, before: bytes, after: bytes) -> str:
    from tempfile import mkstemp

    descriptor, temporary = mkstemp(prefix=".loradoctor-", dir=os.path.dirname(path))  # noqa: PTH120
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(after)
            file.flush()
            os.fsync(file.fileno())
        _keep_owner(temporary, status)
        os.chmod(temporary, stat.S_IMODE(status.st_mode))  # noqa: PTH101
        if files.read(path) != before:
            return "it changed while it was being fixed"
        os.replace(temporary, path)  # noqa: PTH105
        temporary = ""
    finally:
        if temporary:
            os.unlink(temporary)  # noqa: PTH108
    return ""


def _keep_owner(path: str, status: os.stat_result) -> None:
    made = os.stat(path)  # noqa: PTH116
    if hasattr(os, "chown") and (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):
        with suppress(OSError):
            os.chown(path, status.st_uid, status.st_gid)


def _merged(report: Report, repaired: dict[str, Report]) -> Report:
    """The report with what it says of the repaired files replaced."""
    if not repaired:
        return report
    kept = tuple(d for d in report.diagnostics if d.location.path not in repaired)
    parts = [Report(report.subjects, report.checks, kept, report.suppressed)]
    parts += [Report(diagnostics=one.diagnostics) for one in repaired.values()]
    return Report.join(parts)


def _not_written(path: str, why: str) -> Diagnostic:
    finding = Finding(f"the fixes were not written: {why}", Location(path), help="the file was left as it is")
    return stamp(check_did_not_complete, finding, path)


def _explained(found: Diagnostic, refused: set[tuple[object, ...]]) -> Diagnostic:
    if _identity(found) not in refused:
        return found
    reason = "its fix was not applied: the result would not parse, would lose a comment or would still have the bug"
    return replace(found, help=f"{found.help}; {reason}" if found.help else reason)
