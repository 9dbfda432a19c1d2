"""`check`: from targets to a report. The light tier always runs, the torch side when there is something for it to do."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from loradoctor import engine
from loradoctor.checkpoint import checks
from loradoctor.checkpoint.card import facts
from loradoctor.checkpoint.checkpoint import Checkpoint, read
from loradoctor.checkpoint.evidence import Evidence
from loradoctor.checkpoint.layout import Place, TargetError, places
from loradoctor.config import Settings
from loradoctor.diagnostic import Check, Diagnostic, Finding, Location, Report, Subject
from loradoctor.registry import family
from loradoctor.rule import Rule
from loradoctor.self_report import check_did_not_complete, unreadable_file

_OF_TARGETS = frozenset({"LD820", "LD821"})

__all__ = ["CheckOptions", "TargetError", "check", "check_many", "check_place"]


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """How deep to look. ``base`` is ``auto``, ``none``, a directory or a hub id; ``timeout`` is in seconds per adapter.

    ``targets`` are the runtimes the adapters are meant for, as in :data:`loradoctor.checkpoint.targets.NAMES`. ``merged`` is the
    directory of a merged model to hold against the adapter and its base, ``device`` is ``cpu``, ``cuda`` or ``auto``.
    """

    base: str = "auto"
    python: str | None = None
    online: bool = False
    forward: bool = False
    merge: bool = True
    timeout: float = 600
    targets: tuple[str, ...] = ()
    merged: str | None = None
    device: str = "cpu"
    settings: Settings = field(default_factory=Settings)


def check(target: str, options: CheckOptions | None = None) -> Report:
    """Check everything ``target`` means. Raises :class:`TargetError` when it means nothing."""
    return check_many([target], options)


def check_many(targets: Sequence[str], options: CheckOptions | None = None) -> Report:
    """Check several targets; a directory that is meant twice is checked once. Raises :class:`TargetError`."""
    options = options or CheckOptions()
    found = places(targets, online=options.online)
    _mergeable(found, options)
    return Report.join(check_place(place, options) for place in found)


def _mergeable(found: Sequence[Place], options: CheckOptions) -> None:
    """Raise :class:`TargetError` when ``merged`` makes no sense with the rest."""
    if options.merged is None:
        return
    if options.base == "none":
        raise TargetError("`--merged` needs the base model: it cannot be combined with `--no-base`")
    if len(found) > 1:
        raise TargetError(f"`--merged` is the merged copy of one adapter, and {len(found)} were named")
    if not Path(options.merged).is_dir():
        what = "is not a directory" if Path(options.merged).exists() else "does not exist"
        raise TargetError(f"the merged model `{options.merged}` {what}")


def check_place(place: Place, options: CheckOptions) -> Report:
    """Check one adapter. Raises :class:`TargetError` when a base or an interpreter that was insisted on cannot be had."""
    try:
        checkpoint = replace(read(place.path, place.directory, place.weights), targets=options.targets)
    except OSError as error:
        finding = Finding(f"the directory cannot be read: {(error.strerror or str(error)).lower()}", Location(place.path))
        return Report(diagnostics=(engine.stamp(unreadable_file, finding, place.path),))
    checkpoint, own = _examine(checkpoint, options)
    unreadable = [
        engine.stamp(unreadable_file, Finding(f.message, Location(checkpoint.shown(f.file))), place.path)
        for f in checkpoint.faults_of("unreadable-file")
    ]
    rules = _enabled([*family("checkpoint"), *family("merge")], options.settings)
    raised = [*unreadable, *own, *engine.run(rules, checkpoint, place.path)]
    if checkpoint.values_failure:
        failure = Finding(checkpoint.values_failure, Location(checkpoint.weights_path), help="the values were not checked")
        raised.append(engine.stamp(check_did_not_complete, failure, place.path))
    ran = frozenset(r.code for r in rules)
    done = checks.of(checkpoint, raised, ran=ran, asked=options.base != "none")
    done += tuple(_target_checks(checkpoint, raised, ran))
    return _without_ignored(
        Report(subjects=(Subject(place.path, checkpoint.what.name, _facts(checkpoint)),), checks=done).with_diagnostics(raised),
        options.settings.per_path_ignores,
    )


def _enabled(rules: Iterable[Rule[Checkpoint]], settings: Settings) -> list[Rule[Checkpoint]]:
    return [r for r in rules if settings.enabled(r.code)]


def _target_checks(checkpoint: Checkpoint, found: Iterable[Diagnostic], ran: frozenset[str]) -> Iterator[Check]:
    """One entry per target, so that a target without findings is known to have been looked at."""
    from loradoctor.checkpoint.targets import runtime

    against = [(d.data.get("target"), d) for d in found if d.code in _OF_TARGETS]
    for name in checkpoint.targets:
        target = runtime(name)
        mine = [d for of, d in against if of == name]
        if mine:
            status, reason = "failed", ", ".join(dict.fromkeys(f"{d.code} {d.data.get('cause')}" for d in mine))
        elif checkpoint.config is None or not checkpoint.tensors:
            status, reason = "not-run", "there are no config and tensors to judge by"
        elif not ran >= _OF_TARGETS:
            status, reason = "not-run", "its rules are switched off"
        else:
            status, reason = "passed", f"by the source of {target.title} {target.version}"
        yield Check(checkpoint.path, f"target {name}", status, reason)


def _facts(checkpoint: Checkpoint) -> Mapping[str, object]:
    extra = checkpoint.evidence.facts if checkpoint.evidence is not None else {}
    return {**facts(checkpoint), **extra}


def _examine(checkpoint: Checkpoint, options: CheckOptions) -> tuple[Checkpoint, list[Diagnostic]]:
    """The checkpoint with what the torch side found out; its failure is a finding, never a crash."""
    if options.base == "none":
        return checkpoint, []
    try:
        from loradoctor.checkpoint.base import examine

        evidence = examine(checkpoint, options)
    except TargetError:
        raise
    except Exception as error:  # noqa: BLE001 -- the light tier's findings must survive whatever happens over there
        said = str(error).splitlines()[0] if str(error) else "no reason given"
        failed_there = type(error).__name__ == "TorchSideFailed"
        reason = f"the torch side {said}" if failed_there else f"the torch side failed with {type(error).__name__}: {said}"
        finding = Finding(reason, Location(checkpoint.path), help="the files themselves were checked; the fit to the base model was not")
        names = ("loads", "merge-equivalence", *(("merged-copy",) if options.merged else ()))
        skipped = tuple(Check(checkpoint.path, name, "not-run", reason) for name in names)
        failed = engine.stamp(check_did_not_complete, finding, checkpoint.path)
        return checkpoint.with_evidence(Evidence(checks=skipped)), [failed]
    return checkpoint.with_evidence(evidence), []


def _without_ignored(report: Report, ignores: Mapping[str, frozenset[str]]) -> Report:
    if not ignores:
        return report
    kept = [d for d in report.diagnostics if not _ignored(d, ignores)]
    silenced = len(report.diagnostics) - len(kept)
    return replace(report, diagnostics=tuple(kept), suppressed=report.suppressed + silenced)


def _ignored(diagnostic: Diagnostic, ignores: Mapping[str, frozenset[str]]) -> bool:
    paths = (diagnostic.location.path, diagnostic.subject)
    return any(diagnostic.code in codes and any(_fits(path, glob) for path in paths) for glob, codes in ignores.items())


def _fits(path: str, glob: str) -> bool:
    path = path.removeprefix("./").rstrip("/")
    return (
        fnmatch.fnmatch(path, glob.rstrip("/"))
        or fnmatch.fnmatch(path, f"*/{glob.rstrip('/')}")
        or fnmatch.fnmatch(path, f"{glob.rstrip('/')}/*")
    )
