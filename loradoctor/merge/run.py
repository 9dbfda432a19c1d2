"""`merge`: look at the adapter, have the torch side prove, write and audit, and move the result into place."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loradoctor import engine
from loradoctor.checkpoint.base_lookup import find
from loradoctor.checkpoint.checkpoint import Checkpoint, read
from loradoctor.checkpoint.layout import Place, TargetError, places
from loradoctor.checkpoint.run import CheckOptions, check_place
from loradoctor.config import Settings
from loradoctor.diagnostic import Report, Severity
from loradoctor.merge.audit import NAME as AUDIT
from loradoctor.merge.outcome import MERGED, REFUSED, STOPPED, Outcome
from loradoctor.merge.place import left_behind, partial, recover, settle
from loradoctor.merge.progress import Watch
from loradoctor.oracle.client import BadInterpreter, BaseUnavailable, TorchSideFailed, TorchSideMissing, ask
from loradoctor.registry import family


class Interrupted(Exception):
    """The user stopped it; the text says what is left and how to go on."""


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """``timeout`` is the longest silence of the torch side in seconds; the rest is as on the command line."""

    output: str
    base: str = "auto"
    weights: Sequence[float] = ()
    combination: str = "cat"
    density: float | None = None
    majority_sign: str = "total"
    svd_rank: int | None = None
    seed: int = 0
    dtype: str | None = None
    shard_size: str | None = None
    force: bool = False
    python: str | None = None
    online: bool = False
    timeout: float = 600
    settings: Settings = field(default_factory=Settings)


def merge(adapters: Sequence[str], options: MergeOptions, watch: Watch = lambda _: None) -> Outcome:
    """Merge ``adapters`` into their base. ``watch`` is called with every event of the torch side.

    Raises :class:`TargetError` when adapter, base, output or interpreter cannot be what they are said to be, and
    :class:`Interrupted` in place of KeyboardInterrupt.
    """
    found = [_place(adapter, options) for adapter in adapters]
    if options.weights and len(options.weights) != len(found):
        raise TargetError(f"{len(options.weights)} weights were given for {len(found)} adapters")
    if any(weight == 0 or not math.isfinite(weight) for weight in options.weights):
        raise TargetError("a weight of 0 merges nothing, and neither does one that is not finite")
    output = Path(options.output).absolute()
    recover(output)
    _free(output, [place.directory for place in found], options)
    report = Report.join(check_place(place, _checking(options, "none")) for place in found)
    if errors := report.at_least(Severity.ERROR):
        # The base was not asked yet, which nobody has to be told.
        looked = replace(report, checks=tuple(c for c in report.checks if c.status != "not-run"))
        return Outcome(adapters, options.output, REFUSED, report=looked.with_diagnostics(errors))
    checkpoints = [read(place.path, place.directory, place.weights) for place in found]
    base = _base(checkpoints, options)
    _apart(output, Path(base))
    try:
        with _one(checkpoints, base, options, watch) as adapter:
            if isinstance(adapter, str):
                return Outcome(adapters, options.output, REFUSED, adapter)
            return _merged(adapters, checkpoints, adapter, base, output, options, watch)
    except KeyboardInterrupt:
        raise Interrupted(left_behind(output)) from None


def _place(adapter: str, options: MergeOptions) -> Place:
    found = places([adapter], online=options.online)
    if len(found) != 1:
        names = ", ".join(f"`{p.path}`" for p in found[:3])
        raise TargetError(f"there are {len(found)} adapters below `{adapter}` ({names}): name the one to merge")
    return found[0]


def _free(output: Path, adapters: Sequence[Path], options: MergeOptions) -> None:
    if output.exists() and not output.is_dir():
        raise TargetError(f"`{options.output}` is a file: `--output` takes a directory")
    if output.is_symlink():
        raise TargetError(f"`{options.output}` is a link: name the directory itself")
    if output.is_dir() and any(output.iterdir()) and not options.force:
        raise TargetError(f"`{options.output}` is not empty: `--force` replaces it")
    for adapter in adapters:
        _apart(output, adapter)


def _apart(output: Path, other: Path) -> None:
    """Neither may lie in the other: writing one would change the other, and replacing one would delete it."""
    here, there = output.resolve(), other.resolve()
    if other.exists() and (here.is_relative_to(there) or there.is_relative_to(here)):
        raise TargetError(f"`{output}` and `{other}` lie in each other: merge into a directory of its own")


def _checking(options: MergeOptions, base: str) -> CheckOptions:
    return CheckOptions(
        base=base, python=options.python, online=options.online, timeout=options.timeout, settings=options.settings
    )


def _base(checkpoints: Sequence[Checkpoint], options: MergeOptions) -> str:
    """The one base that all adapters are for. Raises :class:`TargetError`."""
    bases = {}
    for checkpoint in checkpoints:
        base, reason = find(checkpoint, _checking(options, options.base))
        if base is None:
            raise TargetError(f"{reason}; merging needs it")
        bases[base] = checkpoint.path
    if len(bases) > 1:
        (one, first), (other, second), *_ = bases.items()
        raise TargetError(f"`{first}` is for the base `{one}` and `{second}` for `{other}`: `--base` says which one to merge into")
    return next(iter(bases))


@contextlib.contextmanager
def _one(checkpoints: Sequence[Checkpoint], base: str, options: MergeOptions, watch: Watch) -> Iterator[Path | str]:
    """The directory of the adapter to merge, which is made for several; or why there is none."""
    weights = list(options.weights) or [1.0] * len(checkpoints)
    if len(checkpoints) == 1 and weights == [1.0]:
        yield checkpoints[0].directory
        return
    with tempfile.TemporaryDirectory(prefix="loradoctor-merge-") as made:
        request = {
            **_request(checkpoints[0], checkpoints[0].directory, base, options),
            "task": "combine",
            "adapters": [str(checkpoint.directory.absolute()) for checkpoint in checkpoints],
            "weights": weights,
            "combination": options.combination,
            "density": options.density,
            "majority_sign": options.majority_sign,
            "svd_rank": options.svd_rank,
            "seed": options.seed,
            "to": made,
        }
        answer = _ask(request, options, watch)
        yield str(answer["refused"]) if "refused" in answer else Path(made)


def _request(checkpoint: Checkpoint, adapter: Path, base: str, options: MergeOptions) -> dict[str, Any]:
    from loradoctor.checkpoint.base import labels

    return {
        "adapter": str(adapter.absolute()),
        "base": base,
        "online": options.online,
        "num_labels": labels(checkpoint),
        "modules": list(dict.fromkeys(k.module for k in checkpoint.keys if k.role and k.module))[:1000],
    }


def _ask(request: Mapping[str, Any], options: MergeOptions, watch: Watch) -> dict[str, Any]:
    """The torch side's answer; what keeps it from answering at all is a :class:`TargetError`."""
    try:
        return ask(request, python=options.python or options.settings.python, timeout=options.timeout, watch=watch)
    except (BadInterpreter, BaseUnavailable) as error:
        raise TargetError(str(error)) from error
    except TorchSideMissing as error:
        raise TargetError(f"merging needs the torch side, but {error}") from error


def _merged(
    adapters: Sequence[str], checkpoints: Sequence[Checkpoint], adapter: Path, base: str, output: Path, options: MergeOptions, watch: Watch
) -> Outcome:
    made = adapter != checkpoints[0].directory
    checkpoint = read(" + ".join(c.path for c in checkpoints), adapter) if made else checkpoints[0]
    request = {
        **_request(checkpoint, adapter, base, options),
        "task": "merge",
        "output": str(output),
        "dtype": options.dtype,
        "shard_size": options.shard_size,
        "carry": [str(c.directory.absolute()) for c in checkpoints],
    }
    try:
        answer = _ask(request, options, watch)
    except TorchSideFailed as error:
        return Outcome(adapters, options.output, STOPPED, f"the torch side {error}", partial=partial(output))
    if "refused" in answer:
        return Outcome(adapters, options.output, REFUSED, str(answer["refused"]))
    if "stopped" in answer:
        return Outcome(adapters, options.output, STOPPED, str(answer["stopped"]), partial=partial(output))
    if "evidence" in answer:
        report = _judged(checkpoint, answer, base, options)
        reason = "" if report.diagnostics else "merging does not keep what the adapter does"
        return Outcome(adapters, options.output, REFUSED, reason, report)
    report = _judged(checkpoint, answer, base, replace(options, output=str(answer["directory"])), audited=True)
    if failed := next((c for c in report.checks if c.name == AUDIT and c.status not in ("passed", "vacuous")), None):
        reason = f"the audit of what was written {'failed' if failed.status == 'failed' else 'could not be done'}: {failed.reason}"
        return Outcome(adapters, options.output, STOPPED, reason, report, partial=partial(output))
    settle(Path(answer["directory"]), output)
    return Outcome(adapters, options.output, MERGED, report=report, facts=dict(answer["written"]))


def _judged(checkpoint: Checkpoint, answer: Mapping[str, Any], base: str, options: MergeOptions, *, audited: bool = False) -> Report:
    """The errors among what the rules say to what the torch side has seen; with the entry of the audit where there was one."""
    from loradoctor.checkpoint.base import evidence

    wanted = replace(_checking(options, base), merged=options.output if audited else None)
    found = evidence(checkpoint, wanted, base, answer, {})
    raised = engine.run([*family("checkpoint"), *family("merge")], checkpoint.with_evidence(found), checkpoint.path)
    errors = [d for d in raised if d.severity is Severity.ERROR]
    return Report(checks=tuple(c for c in found.checks if c.name == AUDIT)).with_diagnostics(errors)
