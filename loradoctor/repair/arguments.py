"""What `loradoctor repair` accepts."""

from __future__ import annotations

import argparse
from collections.abc import Callable

ABOUT = """\
Write a corrected copy of an adapter: names, config, orientation, container and dtype as PEFT wants them, wherever the files
or the base model leave no doubt about what is right. The original is never touched, and a result is only kept when it is
proved: every tensor byte for byte, the update of every module, a `check`, and, with the base model and torch at hand, a load
by the real PEFT. Where a guess would be needed nothing is written, and the reason says what would decide.
TARGET is an adapter's directory or its weights file, also of MLX, torchtune, kohya, diffusers and others.
"""

EXAMPLES = """\
examples:
  loradoctor repair --dry-run outputs/my-lora               what would be done
  loradoctor repair outputs/my-lora --output fixed          do it; fixed/repair-report.json tells every change
  loradoctor repair out --base ~/models/llama --output new  the base decides what the files alone cannot
  loradoctor repair pissa --initial-adapter pissa_init --output lora

exit codes:
  0  repaired, or nothing to repair
  1  cannot be repaired; the reasons were printed and nothing was written
  2  wrong usage, or the target, the output or the base cannot be had
"""

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def add(parser: argparse.ArgumentParser, seconds: Callable[[str], float]) -> None:
    """Give ``parser`` the arguments of `repair`; ``seconds`` reads a time limit."""
    parser.add_argument("target", metavar="TARGET", help="the adapter")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", metavar="NEW", help="the directory to write; it must not exist, or be empty")
    what.add_argument("--dry-run", action="store_true", help="print what would be done and write nothing")
    base = parser.add_argument_group("the base model").add_mutually_exclusive_group()
    base.add_argument("--base", default="auto", metavar="auto|DIR|ID", help="as for check (default: auto)")
    base.add_argument("--no-base", dest="base", action="store_const", const="none", help="the files alone, without torch")
    told = parser.add_argument_group("what you know and allow")
    told.add_argument("--drop-orphans", action="store_true", help="leave out modules of which one half is missing")
    told.add_argument("--drop-base-weights", action="store_true", help="leave out tensors of the base model that nothing declares")
    told.add_argument(
        "--outside", choices=("adapt", "drop"), help="modules with tensors that the config does not target: target them, or not"
    )
    told.add_argument("--adapter", metavar="NAME", help="which one to keep of a file that holds several")
    told.add_argument("--lora-alpha", type=_alpha, metavar="N", help="the `lora_alpha` of the training, when the config lost it")
    told.add_argument(
        "--initial-adapter", metavar="DIR", help="PiSSA, OLoRA: the adapter before training; makes a plain LoRA of twice the rank"
    )
    told.add_argument("--dtype", choices=tuple(DTYPES), help="store every tensor in this dtype; without it no value is rounded")
    deeper = parser.add_argument_group("the torch side")
    deeper.add_argument("--online", action="store_true", help="allow downloads from the Hugging Face Hub")
    deeper.add_argument("--python", metavar="PATH", help="the interpreter whose torch, transformers and PEFT are used")
    deeper.add_argument("--timeout", type=seconds, default=600.0, metavar="SECONDS", help="limit of each of its answers (default: 600)")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def _alpha(text: str) -> float:
    alpha = float(text)
    if not 0 < alpha < float("inf"):
        raise argparse.ArgumentTypeError("must be a positive number")
    return alpha
