"""The command line: what each command accepts, and help that is worth reading."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from loradoctor import __version__
from loradoctor.checkpoint.targets import NAMES as TARGETS
from loradoctor.checkpoint.targets import UnknownTarget, known
from loradoctor.merge import arguments as merging
from loradoctor.repair import arguments as repairing
from loradoctor.report import FORMATS

_ABOUT = """\
A doctor for LoRA and every other PEFT method. It reads fine-tuning code and adapter checkpoints, says what is wrong,
what you will see because of it, and what to do. It runs none of your code and unpickles nothing.
"""

_EXAMPLES = """\
examples:
  loradoctor lint .                        find bugs in training scripts and notebooks
  loradoctor lint --fix train.py           and repair what can be repaired safely
  loradoctor check out/checkpoint-500      will this adapter load, act and merge as it should?
  loradoctor check --no-base adapters/*    the same from the files alone, in a tenth of a second each
  loradoctor merge out/lora --output merged    merged into its base, proved, audited, in little memory
  loradoctor repair out/lora --output fixed    a corrected copy, with proof of what it kept
  loradoctor explain LD101                 why a finding matters and how to repair it

exit codes:
  0  nothing found at or above --fail-on (default: warning)
  1  something found
  2  wrong usage or configuration, or a check that did not complete
"""

_LINT = """\
Follow models through Python files and notebooks, from loading over wrapping and training to saving and merging,
and report where PEFT will not do what the code says. Nothing is executed.
"""

_LINT_EXAMPLES = """\
examples:
  loradoctor lint src notebooks/train.ipynb
  loradoctor lint --diff train.py                      show what --fix would change
  loradoctor lint --select LD1,LD301 .                 these families and rules only
  loradoctor lint --format github .                    annotations in GitHub Actions
  cat train.py | loradoctor lint - --stdin-filename train.py

A comment `# loradoctor: ignore[LD101] reason` on a line of the finding silences it.
"""

_CHECK = """\
Examine PEFT checkpoints: the files, the config, every key and every value; then, where the base model is on this
machine and torch is installed, whether PEFT loads the adapter fully and whether merging keeps what it does.
TARGET is an adapter's directory or one of its files, a Trainer's checkpoint-N, a directory of named adapters, or
ORG/NAME from the local Hugging Face cache.
"""

_CHECK_EXAMPLES = """\
examples:
  loradoctor check outputs/my-lora
  loradoctor check --no-base outputs/my-lora           the files alone: fast, needs no torch
  loradoctor check --base ~/models/llama outputs/my-lora
  loradoctor check out --base ~/models/llama --merged out-merged    is this what merging them gives?
  loradoctor check --python .venv/bin/python out       judge with that environment's PEFT
  loradoctor check -r --no-base runs                   every adapter below, with a table at the end
  loradoctor check --target vllm --target llama.cpp out     and will they serve it as it was trained?
  loradoctor check --format json out > report.json
"""


_WIDEST = 110


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal, within reason."""

    def __init__(self, prog: str) -> None:
        # Left alone, argparse asks shutil for the width, which imports every compression module there is.
        super().__init__(prog, max_help_position=28, width=min(_columns(), _WIDEST))


def _columns() -> int:
    if os.environ.get("COLUMNS", "").isdigit():
        return int(os.environ["COLUMNS"])
    try:
        return os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else 1).columns - 2
    except (OSError, ValueError):
        return _WIDEST


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed command line; exits with code 2 and a usage line when it makes no sense."""
    parser = _command_line()
    options = parser.parse_args(argv)
    if getattr(options, "verbose", False):
        options.severity = "info"
    return options


def _command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="loradoctor",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"loradoctor {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _lint(_command(commands, "lint", "find PEFT bugs in Python files and notebooks", _LINT, _LINT_EXAMPLES))
    _check(_command(commands, "check", "examine adapter checkpoints", _CHECK, _CHECK_EXAMPLES))
    merging.add(_command(commands, "merge", "merge adapters into their base, in little memory", merging.ABOUT, merging.EXAMPLES), _seconds)
    repairing.add(_command(commands, "repair", "write a corrected copy of an adapter", repairing.ABOUT, repairing.EXAMPLES), _seconds)
    explain = _command(commands, "explain", "why a rule exists and how to repair what it finds")
    explain.add_argument("rules", nargs="+", metavar="CODE|NAME", help="LD101 or adapter-on-adapter")
    rules = _command(commands, "rules", "list every rule")
    rules.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, title: str, about: str = "", examples: str = ""
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=title,
        description=about or f"{title[0].upper()}{title[1:]}.",
        epilog=examples,
        formatter_class=_Help,
    )


def _lint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", default=["."], metavar="PATH", help="files, directories, or - for standard input (default: .)")
    parser.add_argument("--stdin-filename", metavar="NAME", help="what to call standard input; decides whether it is a notebook")
    parser.add_argument("--documents", action="store_true", help="look into Markdown and reStructuredText below directories too")
    parser.add_argument("--no-cache", dest="cache", action="store_false", help="neither use nor keep the results of earlier runs")
    fixes = parser.add_argument_group("fixes")
    fixes.add_argument("--fix", action="store_true", help="repair what can be repaired without changing anything else")
    fixes.add_argument("--unsafe-fixes", action="store_true", help="repair also where the program may change otherwise")
    fixes.add_argument("--diff", action="store_true", help="print the repairs as a patch and change no file")
    rules = _selection(parser)
    rules.add_argument("--select", action="extend", type=_listed, metavar="CODES", help="only these codes, names or prefixes")
    rules.add_argument("--extend-select", action="extend", type=_listed, default=[], metavar="CODES", help="these as well")
    _output(parser)


def _check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("targets", nargs="+", metavar="TARGET", help="an adapter on disk, or ORG/NAME from the local cache")
    many = parser.add_argument_group("many at once")
    many.add_argument(
        "-r", "--recursive", action="store_true", help="every adapter below the directories named, each written when it is done"
    )
    many.add_argument("--jobs", type=_jobs, metavar="N", help="processes for -r (default: one per processor)")
    base = parser.add_argument_group("the base model").add_mutually_exclusive_group()
    base.add_argument(
        "--base", default="auto", metavar="auto|DIR|ID", help="check against this one, or fail; auto: if it is found (default)"
    )
    base.add_argument("--no-base", dest="base", action="store_const", const="none", help="the files alone, without torch")
    deeper = parser.add_argument_group("what is done with it")
    deeper.add_argument(
        "--target", action="append", type=_target, metavar="RUNTIME", help=f"also: what would it refuse, or get wrong? {', '.join(TARGETS)}"
    )
    deeper.add_argument("--merged", metavar="DIR", help="audit this merged copy: is every tensor of it base plus update, or the base's?")
    deeper.add_argument("--no-merge", dest="merge", action="store_false", help="do not compute merges")
    deeper.add_argument(
        "--device", choices=("cpu", "cuda", "auto"), default="cpu", help="where merges are computed; auto: on CUDA if torch sees it (default: cpu)"
    )
    deeper.add_argument("--forward", action="store_true", help="also run the whole model, merged and not (informational)")
    deeper.add_argument("--online", action="store_true", help="allow downloads from the Hugging Face Hub")
    deeper.add_argument("--python", metavar="PATH", help="the interpreter whose torch, transformers and PEFT are used")
    deeper.add_argument("--timeout", type=_seconds, default=600.0, metavar="SECONDS", help="limit of that part (default: 600)")
    _selection(parser)
    _output(parser, (*FORMATS, "jsonl"))


def _selection(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    rules = parser.add_argument_group("rules")
    rules.add_argument("--ignore", action="extend", type=_listed, default=[], metavar="CODES", help="not these")
    rules.add_argument("--fail-on", choices=("error", "warning", "info"), help="lowest severity that exits with 1")
    rules.add_argument("--config", metavar="FILE", help="read `[tool.loradoctor]` from here instead of looking for it")
    rules.add_argument("--isolated", action="store_true", help="read no configuration file")
    return rules


def _output(parser: argparse.ArgumentParser, formats: tuple[str, ...] = FORMATS) -> None:
    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=formats, default="text", help="default: text")
    output.add_argument("--output", metavar="FILE", help="write the report here instead of to standard output")
    output.add_argument(
        "--severity", choices=("error", "warning", "info"), default="warning", help="lowest severity shown (default: warning)"
    )
    output.add_argument("--verbose", "-v", action="store_true", help="show everything: --severity info")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _target(text: str) -> str:
    try:
        return known([text])[0]
    except UnknownTarget as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _jobs(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError("must be a positive number of seconds")
    return seconds
