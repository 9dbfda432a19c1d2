"""The commands: the only module that prints a report or chooses an exit code."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TextIO

from loradoctor.arguments import parse
from loradoctor.config import ConfigError, Settings, load
from loradoctor.diagnostic import Report, Severity
from loradoctor.report import WHOLE, renderer
from loradoctor.report.escape import printable
from loradoctor.report.palette import Palette, wants_colour, wants_motion
from loradoctor.report.sources import Sources
from loradoctor.report.text import Text

if TYPE_CHECKING:
    from argparse import Namespace

    from loradoctor.checkpoint.run import CheckOptions

CLEAN, FOUND, FAILED = 0, 1, 2
INTERRUPTED = 130


class UsageError(ValueError):
    """Arguments that are fine one by one and make no sense together."""


def run(argv: Sequence[str] | None = None) -> int:
    """Carry out one command line and return its exit code; expected failures are one line on standard error."""
    options = parse(argv)
    try:
        return _COMMANDS[options.command](options)
    except (ConfigError, UsageError) as error:
        return fail(str(error))


def fail(message: str) -> int:
    """Say in one line on standard error why nothing was done, and return the exit code for that."""
    print(f"loradoctor: error: {printable(message)}", file=sys.stderr)
    return FAILED


def exit_code(report: Report, fail_on: Severity) -> int:
    """What the report means for a caller; a check that did not complete outweighs what the others found."""
    if any(d.code == "LD002" for d in report.diagnostics):
        return FAILED
    return FOUND if report.at_least(fail_on) else CLEAN


def _lint(options: Namespace) -> int:
    stdin = _stdin(options)
    start = (stdin[0] if stdin else options.paths[0]) or "."
    settings = _settings(options, start)
    if options.fix or options.unsafe_fixes or options.diff:
        return _fix(options, settings)
    from loradoctor.lint.run import lint

    report = lint([] if stdin else options.paths, settings, stdin=stdin, cached=settings.cache and stdin is None)
    return _emit(options, settings, report, Sources(dict([stdin]) if stdin else None))


def _stdin(options: Namespace) -> tuple[str, bytes] | None:
    if "-" not in options.paths:
        if options.stdin_filename:
            raise UsageError("`--stdin-filename` needs `-` as the path")
        return None
    if options.paths != ["-"]:
        raise UsageError("`-` stands for standard input and cannot be combined with other paths")
    if options.fix or options.unsafe_fixes or options.diff:
        raise UsageError("standard input cannot be fixed; give the path of a file")
    return options.stdin_filename or "<stdin>", sys.stdin.buffer.read()


def _fix(options: Namespace, settings: Settings) -> int:
    from loradoctor.lint.rewrite import fix

    if options.diff and options.format != "text":
        raise UsageError("`--diff` prints a patch; it has no other `--format`")
    outcome = fix(options.paths, settings, unsafe=options.unsafe_fixes, diff=options.diff)
    report = Report.join([outcome.report, Report(diagnostics=outcome.failed)])
    if options.diff:
        for one in outcome.failed:
            print(f"loradoctor: {printable(one.location.path)}: {printable(one.message)}", file=sys.stderr)
        _write(options, outcome.diff)
        return max(exit_code(report, settings.fail_on), FOUND if outcome.diff else CLEAN)
    if outcome.changed and options.format == "text":
        print(f"fixed {', '.join(printable(path) for path in outcome.changed)}", file=sys.stderr)
    return _emit(options, settings, report)


def _check(options: Namespace) -> int:
    from loradoctor.checkpoint.run import CheckOptions, TargetError, check_many

    first = options.targets[0]
    settings = _settings(options, first if os.path.exists(first) else ".")  # noqa: PTH110
    wanted = CheckOptions(
        base=options.base,
        python=options.python or settings.python,
        online=options.online,
        forward=options.forward,
        merge=options.merge,
        timeout=options.timeout,
        targets=tuple(dict.fromkeys(options.target)) if options.target else settings.targets,
        merged=options.merged,
        device=options.device,
        settings=settings,
    )
    try:
        if options.recursive and options.merged:
            raise UsageError("`--merged` is the merged copy of one adapter and cannot be combined with `-r`")
        if options.recursive or options.format == "jsonl":
            return _check_each(options, settings, wanted)
        if options.jobs is not None:
            raise UsageError("`--jobs` needs `-r`")
        with _spinner("checking against the base model") if options.base != "none" else nullcontext():
            report = check_many(options.targets, wanted)
    except TargetError as error:
        return fail(str(error))
    from loradoctor.repair.offer import offered

    return _emit(options, settings, offered(report))


def _check_each(options: Namespace, settings: Settings, wanted: CheckOptions) -> int:
    """Every adapter by itself, written as soon as it is done; only formats that are one document wait for the last."""
    from loradoctor.checkpoint.layout import places
    from loradoctor.checkpoint.many import check_below, check_each
    from loradoctor.report.many import JsonLines, Lines, Tally

    started = time.monotonic()
    if options.recursive:
        results = check_below(options.targets, wanted, options.jobs)
    else:
        results = check_each(places(options.targets, online=options.online), wanted, options.jobs)
    if options.format in WHOLE:
        return _emit(options, settings, Report.join(r.report for r in results))
    show, tally = Severity(options.severity), Tally()
    colour = wants_colour(sys.stdout.isatty() and not options.output, os.environ)
    lines = JsonLines() if options.format == "jsonl" else Lines(show, Palette(enabled=colour)) if options.format == "text" else None
    with _opened(options) as out:
        for result in results:
            outcome = tally.add(result.path, result.report)
            if lines is not None:
                out.write(lines.one(result.path, result.report, outcome))
            else:
                out.write(renderer(options.format)(result.report.with_diagnostics(result.report.at_least(show))))
            out.flush()
        if lines is not None and tally.adapters:
            out.write(lines.end(tally, time.monotonic() - started))
    if not tally.adapters:
        return fail(f"there is no adapter below {', '.join(f'`{t}`' for t in options.targets)}")
    return FAILED if tally.verdicts["failed"] else FOUND if tally.at_least(settings.fail_on) else CLEAN


def _opened(options: Namespace) -> AbstractContextManager[TextIO]:
    """Where the report goes, written piece by piece."""
    if not options.output:
        return nullcontext(sys.stdout)
    try:
        return open(options.output, "w", encoding="utf-8", errors="backslashreplace", newline="")  # noqa: PTH123
    except OSError as error:
        raise UsageError(f"cannot write {options.output}: {error.strerror or error}") from None


def _spinner(label: str) -> AbstractContextManager[object]:
    if not wants_motion(sys.stderr.isatty(), os.environ):
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(label)


def _repair(options: Namespace) -> int:
    import json

    from loradoctor.checkpoint.layout import TargetError
    from loradoctor.repair.arguments import DTYPES
    from loradoctor.repair.outcome import as_json, as_text
    from loradoctor.repair.run import RepairOptions, repair
    from loradoctor.repair.wishes import Wishes

    wishes = Wishes(
        drop_orphans=options.drop_orphans,
        drop_base_weights=options.drop_base_weights,
        outside=options.outside,
        dtype=DTYPES.get(options.dtype),
        adapter=options.adapter,
        alpha=options.lora_alpha,
        initial=options.initial_adapter,
    )
    wanted = RepairOptions(
        output=options.output or "",
        dry_run=options.dry_run,
        base=options.base,
        python=options.python,
        online=options.online,
        timeout=options.timeout,
        wishes=wishes,
    )
    try:
        outcomes = repair(options.target, wanted)
    except TargetError as error:
        return fail(str(error))
    if options.format == "json":
        print(json.dumps({"version": 1, "repairs": [as_json(one) for one in outcomes]}, indent=2))
    else:
        print("".join(as_text(one) for one in outcomes), end="")
    return FOUND if any(one.failed for one in outcomes) else CLEAN


def _merge(options: Namespace) -> int:
    import json

    from loradoctor.checkpoint.layout import TargetError
    from loradoctor.merge.outcome import MERGED, STOPPED, as_json, as_text
    from loradoctor.merge.progress import bar
    from loradoctor.merge.run import Interrupted, MergeOptions, merge
    from loradoctor.repair.offer import offered

    several = len(options.adapters) > 1
    if options.combination and not several:
        raise UsageError("`--combination` needs several adapters")
    settings = load(".", None, isolated=False)
    wanted = MergeOptions(
        output=options.output,
        base=options.base,
        weights=options.weights or (),
        combination=options.combination or "cat",
        density=options.density,
        majority_sign=options.majority_sign or "total",
        svd_rank=options.svd_rank,
        seed=options.seed or 0,
        dtype=options.dtype,
        shard_size=options.shard_size,
        force=options.force,
        python=options.python,
        online=options.online,
        timeout=options.timeout,
        settings=settings,
    )
    try:
        with bar(moving=wants_motion(sys.stderr.isatty(), os.environ)) as watch:
            outcome = merge(options.adapters, wanted, watch)
    except TargetError as error:
        return fail(str(error))
    except Interrupted as error:
        print(f"loradoctor: {printable(str(error))}", file=sys.stderr)
        return INTERRUPTED
    if options.format == "json":
        print(json.dumps(as_json(outcome), indent=2))
    else:
        if outcome.report.diagnostics:
            colour = wants_colour(sys.stdout.isatty(), os.environ)
            print(Text(Severity.ERROR, Palette(enabled=colour)).render(offered(outcome.report)))
        print(as_text(outcome), end="")
    return CLEAN if outcome.status == MERGED else FAILED if outcome.status == STOPPED else FOUND


def _explain(options: Namespace) -> int:
    from loradoctor.registry import UnknownRule, find
    from loradoctor.report.catalogue import page

    try:
        pages = [page(find(wanted)) for wanted in options.rules]
    except UnknownRule as error:
        return fail(str(error))
    if not _decorated():
        print("\n".join(pages), end="")
        return CLEAN
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    for text in pages:
        console.print(Markdown(text))
    return CLEAN


def _rules(options: Namespace) -> int:
    from loradoctor.registry import all_rules
    from loradoctor.report import catalogue

    if options.format == "json":
        import json

        print(json.dumps(catalogue.records(), indent=2))
    elif not _decorated():
        print(catalogue.table(all_rules()), end="")
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(*catalogue.COLUMNS, box=None, pad_edge=False, header_style="bold")
        for code, name, severity, what in catalogue.rows(all_rules()):
            table.add_row(code, name, severity, what)
        Console(markup=False).print(table)
    return CLEAN


def _decorated() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _settings(options: Namespace, start: str) -> Settings:
    settings = load(start, options.config, options.isolated)
    return settings.overridden(
        select=getattr(options, "select", None),
        ignore=options.ignore,
        extend_select=getattr(options, "extend_select", ()),
        fail_on=options.fail_on,
        documents=getattr(options, "documents", False),
        cache=getattr(options, "cache", True),
    )


def _emit(options: Namespace, settings: Settings, report: Report, sources: Sources | None = None) -> int:
    code = exit_code(report, settings.fail_on)
    show = Severity(options.severity)
    sources = sources or Sources()
    if options.format == "text":
        colour = wants_colour(sys.stdout.isatty() and not options.output, os.environ)
        _write(options, Text(show, Palette(enabled=colour), sources).render(report))
    elif options.format not in WHOLE:
        _write(options, renderer(options.format)(report.with_diagnostics(report.at_least(show))))
    elif code == FAILED and not options.output:
        # A program that reads standard output must not take half an answer for a whole one.
        print(Text(show, sources=sources).render(report), end="", file=sys.stderr)
    else:
        _write(options, renderer(options.format)(report))
    return code


def _write(options: Namespace, text: str) -> None:
    if not options.output:
        sys.stdout.write(text)
        return
    try:
        with open(options.output, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:  # noqa: PTH123
            file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {options.output}: {error.strerror or error}") from None


_COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "lint": _lint,
    "check": _check,
    "merge": _merge,
    "repair": _repair,
    "explain": _explain,
    "rules": _rules,
}
