"""Assertions for test suites: plain functions, also there as pytest fixtures of the same names.

Each returns what it looked at and raises ``AssertionError`` with the text the command line would print.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from loradoctor.api import Path, Paths, check, lint
from loradoctor.diagnostic import Check, Report, Severity

__all__ = ["assert_adapter", "assert_adapter_effective", "assert_lint_clean", "assert_merge_equivalent", "assert_merged"]


def assert_adapter(
    path: Paths,
    base: Path | None = None,
    ignore: Iterable[str] = (),
    *,
    fail_on: Severity | str = Severity.WARNING,
    **options: Any,
) -> Report:
    """Assert that the adapter at ``path`` is sound: nothing is found at or above ``fail_on``, and every check completed.

    ``base`` is a base model's directory or id that it must fit; without one the base is used if it is found on this
    machine, as on the command line, and ``"none"`` examines the files alone. ``ignore`` names codes or rules to leave out;
    ``options`` go to :func:`loradoctor.check`.
    """
    __tracebackhide__ = True
    report = check(path, "auto" if base is None else base, ignore=ignore, **options)
    _assert_clean(report, Severity(fail_on), f"the adapter at {_named(path)} is not sound")
    return report


def assert_lint_clean(
    paths: Paths,
    *,
    ignore: Iterable[str] = (),
    select: Iterable[str] | None = None,
    fail_on: Severity | str = Severity.WARNING,
    **settings: Any,
) -> Report:
    """Assert that ``loradoctor lint`` finds nothing at or above ``fail_on`` in these files and directories.

    ``settings`` go to :func:`loradoctor.lint`.
    """
    __tracebackhide__ = True
    report = lint(paths, select=select, ignore=ignore, **settings)
    _assert_clean(report, Severity(fail_on), f"{_named(paths)} is not clean")
    return report


def assert_merge_equivalent(model_or_path: object, base: Path | None = None, **options: Any) -> Check:
    """Assert that merging the adapter into its base gives the outputs the two give unmerged.

    Takes a ``PeftModel`` in memory, which is left as it was, or the path of an adapter, whose ``base`` is looked for as
    :func:`assert_adapter` does. An adapter without effect proves nothing, and so does a comparison that was not made: both
    fail. ``options`` go to :func:`loradoctor.check`.
    """
    __tracebackhide__ = True
    if not isinstance(model_or_path, (str, os.PathLike)):
        from loradoctor.merge.live import merge_equivalence

        outcome: Check = merge_equivalence(model_or_path)
        if outcome.status != "passed":
            raise AssertionError(_unproven(outcome))
        return outcome
    report = check(model_or_path, "auto" if base is None else base, **options)
    outcomes = [c for c in report.checks if c.name == "merge-equivalence"]
    failures = [c for c in outcomes if c.status != "passed"]
    if failures or not outcomes:
        reason = "; ".join(_unproven(c) for c in failures) or "merging was not examined"
        raise AssertionError(f"{reason}\n\n{_rendered(report, Severity.WARNING)}")
    return outcomes[0]


def assert_merged(adapter: Path, base: Path | None, merged: Path, **options: Any) -> Check:
    """Assert that the model in the directory ``merged`` is ``base`` with ``adapter`` merged into it: every tensor is accounted for.

    ``base`` is a directory or id; with None it is looked for as :func:`assert_adapter` does. An adapter without effect proves
    nothing, and so does a comparison that was not made: both fail. ``options`` go to :func:`loradoctor.check`.
    """
    __tracebackhide__ = True
    # Whether merging keeps what the adapter does is a question of its own, and takes longer to answer.
    report = check(adapter, "auto" if base is None else base, merged=merged, **{"merge": False, **options})
    outcome = next((c for c in report.checks if c.name == "merged-copy"), None)
    if outcome is None or outcome.status != "passed":
        reason = _unproven(outcome, "the merged model is not proven") if outcome is not None else "the merged model was not examined"
        raise AssertionError(f"{reason}\n\n{_rendered(report, Severity.WARNING)}")
    return outcome


def assert_adapter_effective(model: object, inputs: Mapping[str, object], *, more_than: float = 0.0) -> float:
    """Assert that the adapter changes what the model answers, and return by how much.

    The largest absolute difference between the outputs for ``inputs`` with and without the active adapter must be
    ``more_than`` this (in the unit of the outputs: logits for a language model). The model is left as it was.
    """
    __tracebackhide__ = True
    from loradoctor.merge.live import adapter_effect

    effect: float = adapter_effect(model, inputs)
    if not effect > more_than:
        raise AssertionError(
            f"the adapter does not change what the model answers: with and without it the outputs differ by at most "
            f"{effect:g}, and more than {more_than:g} was asked for"
        )
    return effect


def _assert_clean(report: Report, fail_on: Severity, claim: str) -> None:
    __tracebackhide__ = True
    incomplete = any(d.code == "LD002" for d in report.diagnostics)
    if report.at_least(fail_on) or incomplete:
        raise AssertionError(f"{claim}\n\n{_rendered(report, fail_on)}")


def _rendered(report: Report, show: Severity) -> str:
    from loradoctor.report.text import Text

    return Text(show).render(report).rstrip()


def _unproven(check: Check, claim: str = "merge equivalence is not proven") -> str:
    numbers = [
        f"{label} {value:.3g}"
        for label, value in (("measured", check.measured), ("bound", check.bound), ("effect", check.effect))
        if value is not None
    ]
    details = f" ({', '.join(numbers)})" if numbers else ""
    reason = f": {check.reason}" if check.reason else ""
    return f"{claim}, the check is `{check.status}`{reason}{details}"


def _named(paths: Paths) -> str:
    several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    return ", ".join(f"`{os.fspath(p)}`" for p in several)
