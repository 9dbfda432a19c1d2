"""What `loradoctor merge` accepts."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

ABOUT = """\
Merge an adapter into its base without loading the model: layer by layer with PEFT's own arithmetic, from file to file, in
memory bounded by the largest layer that is adapted. What is written is what `merge_and_unload()` and `save_pretrained()` of
the installed PEFT and transformers write, byte for byte, with tokenizer and templates beside it. It is first made sure that
merging keeps what the adapter does, then written to `OUTPUT.partial-…`, audited there against base and adapter, and only then
moved into place. An interrupted merge goes on where it stopped when the same command is run again.
"""

EXAMPLES = """\
examples:
  loradoctor merge outputs/my-lora --output merged                   the base is the one that the adapter names
  loradoctor merge outputs/my-lora --base ~/models/llama --output merged
  loradoctor merge out --output merged --dtype bfloat16 --shard-size 5GB
  loradoctor merge style math --weights 0.7,0.3 --output merged      0.7 times one update and 0.3 times the other
  loradoctor merge a b c --combination ties --density 0.3 --output merged

combinations of several adapters, all of them PEFT's `add_weighted_adapter`:
  cat        the weighted sum of the updates, exactly; ranks may differ (default)
  svd        that sum, cut to --svd-rank (default: the largest rank of the adapters)
  linear     weighted sums of the A and of the B matrices: NOT the sum of the updates; equal ranks only
  ties, dare_linear, dare_ties, magnitude_prune    prune to --density first; equal ranks only, with _svd any ranks

exit codes:
  0    merged
  1    it cannot be merged; the findings were printed and there is no output
  2    wrong usage, no space, or it stopped half way; the reason was printed
  130  interrupted; the same command goes on from there
"""

DTYPES = ("float32", "float16", "bfloat16")
COMBINATIONS = (
    "cat", "svd", "linear", "ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd", "magnitude_prune",
    "magnitude_prune_svd",
)  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]B)", re.IGNORECASE)


def add(parser: argparse.ArgumentParser, seconds: Callable[[str], float]) -> None:
    """Give ``parser`` the arguments of `merge`; ``seconds`` reads a time limit."""
    parser.add_argument("adapters", nargs="+", metavar="ADAPTER", help="the adapter's directory, or several to be combined")
    parser.add_argument("--output", required=True, metavar="DIR", help="the merged model; must not exist, or be empty, without --force")
    parser.add_argument("--base", default="auto", metavar="auto|DIR|ID", help="as for check (default: auto)")
    result = parser.add_argument_group("the result")
    result.add_argument("--dtype", choices=DTYPES, help="merge in the wider of this and the base's dtype, and round once (default: the base's)")
    result.add_argument("--shard-size", type=_size, metavar="SIZE", help="largest file, as 5GB (default: that of the installed transformers)")
    result.add_argument("--force", action="store_true", help="replace OUTPUT; the old one is kept until the new one is complete and audited")
    several = parser.add_argument_group("several adapters")
    several.add_argument("--weights", type=_weights, metavar="W,W,…", help="one per adapter, default 1; negative ones subtract: --weights=-0.5,1")
    several.add_argument("--combination", choices=COMBINATIONS, metavar="HOW", help="see below (default: cat)")
    several.add_argument("--density", type=_share, metavar="D", help="share of the values that ties, dare and magnitude_prune keep")
    several.add_argument("--majority-sign", choices=("total", "frequency"), help="how ties elects the sign (default: total)")
    several.add_argument("--svd-rank", type=_positive, metavar="R", help="rank of the result of an svd combination")
    several.add_argument("--seed", type=int, metavar="N", help="for dare, which drops at random (default: 0)")
    deeper = parser.add_argument_group("the torch side")
    deeper.add_argument("--online", action="store_true", help="allow downloads from the Hugging Face Hub")
    deeper.add_argument("--python", metavar="PATH", help="the interpreter whose torch, transformers and PEFT are used")
    deeper.add_argument("--timeout", type=seconds, default=600.0, metavar="SECONDS", help="give up when nothing happens for this long (default: 600)")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def _size(text: str) -> str:
    # What huggingface_hub's parse_size_to_int reads.
    match = _SIZE.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError("must be a size like 5GB or 500MB")
    return f"{match[1]}{match[2].upper()}"


def _weights(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError("must be numbers separated by commas") from None


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError("must be above 0 and at most 1")
    return share


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
