"""LoHa, LoKr and HiRA: products of low-rank factors other than the matrix product.

Shapes: peft/tuners/loha/layer.py (`create_adapter_parameters`), lokr/layer.py (`update_layer`, `factorization`), hira/layer.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.methods.dims import IN, OUT, R, name
from loradoctor.checkpoint.methods.table import Layout, Parameter, Problem, Shapes, Switch, Table, each, part

_RANK = Parameter("r", "r", 8, pattern="rank_pattern")
_HEIGHT, _WIDTH = name("height"), name("width")
_EFFECTIVE = Switch("use_effective_conv2d", title="a factor for the kernels of convolutions")

LOHA = Table(
    given=(_RANK,),
    layouts=(
        Layout(
            each(hada_w1_a=part(OUT, R), hada_w1_b=part(R, IN), hada_w2_a=part(OUT, R), hada_w2_b=part(R, IN)),
        ),
        Layout(
            each(
                hada_t1=part(R, R, _HEIGHT, _WIDTH),
                hada_w1_a=part(R, OUT),
                hada_w1_b=part(R, IN),
                hada_t2=part(R, R, _HEIGHT, _WIDTH),
                hada_w2_a=part(R, OUT),
                hada_w2_b=part(R, IN),
            ),
            (_EFFECTIVE,),
        ),
    ),
)

HIRA = Table(
    # Its `rank_pattern` has no effect: the layers take `r` from the config (hira/layer.py, `dispatch_default`).
    given=(Parameter("r", "r", 32),),
    layouts=(
        Layout(each(hira_A=part(R, IN, ...), hira_B=part(OUT, R, ...))),
        Layout(each(hira_embedding_A=part(R, IN), hira_embedding_B=part(OUT, R))),
    ),
)

_BOTH = Switch("decompose_both", title="two factors of the first matrix")
_FIRST_OUT, _FIRST_IN, _SECOND_OUT, _SECOND_IN = name("out1"), name("in1"), name("out2"), name("in2")
_FIRST = (
    Layout(each(lokr_w1=part(_FIRST_OUT, _FIRST_IN))),
    Layout(each(lokr_w1_a=part(_FIRST_OUT, R), lokr_w1_b=part(R, _FIRST_IN)), (_BOTH,)),
)
_SECOND = (
    Layout(each(lokr_w2=part(_SECOND_OUT, _SECOND_IN, ...))),
    Layout(each(lokr_w2_a=part(_SECOND_OUT, R), lokr_w2_b=part(R, _SECOND_IN))),
    Layout(each(lokr_t2=part(R, R, _HEIGHT, _WIDTH), lokr_w2_a=part(R, _SECOND_OUT), lokr_w2_b=part(R, _SECOND_IN)), (_EFFECTIVE,)),
)


def factorization(size: int, factor: int) -> tuple[int, int]:
    """The two factors that LoKr splits an axis into: the divisor nearest to ``factor``, to the square root for -1 (lokr/layer.py)."""
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    limit = size if factor == -1 else factor
    small = next((m for m in range(min(math.isqrt(size), max(limit, 1)), 0, -1) if size % m == 0), 1)
    return small, size // small


def _lokr(config: AdapterConfig, module: str, shapes: Shapes, sizes: Mapping[str, int]) -> Iterator[Problem]:
    """What the factors say about `decompose_factor` and `r`, which decide how the axes are split and which factors stay whole."""
    factor = config.get("decompose_factor", -1)
    given = _RANK.of(config, module)
    first, second = sizes.get("out1"), sizes.get("out2")
    if not isinstance(factor, int) or isinstance(factor, bool) or not first or not second:
        return
    split = factorization(first * second, factor)
    if split != (first, second):
        what = f"splits {first * second} outputs into {split[0]}·{split[1]}, but the tensors have {first}·{second}"
        yield Problem("decompose_factor", f"`decompose_factor` {factor} {what}")
        return
    width = sizes.get("in2")
    if given is None or width is None:
        return
    rank, source = given
    whole = "lokr_w2" in shapes
    # The columns of a factored convolution hold the kernel too, so they only bound the width from above.
    if whole and rank < max(second, width) / 2:
        yield Problem(source, f"`{source}` {rank} splits the second matrix in two, but `lokr_w2` is whole")
    elif not whole and "lokr_w2_a" in shapes and rank >= max(second, width) / 2:
        yield Problem(source, f"`{source}` {rank} keeps the second matrix whole, but the file has it in two")
    first_in = sizes.get("in1")
    if first_in and "lokr_w1" in shapes and config.flag("decompose_both") and rank < max(first, first_in) / 2:
        yield Problem("decompose_both", f"`decompose_both` with `{source}` {rank} splits the first matrix in two, but `lokr_w1` is whole")


LOKR = Table(
    given=(_RANK,),
    layouts=tuple(Layout({**a.parts, **b.parts}, a.switches + b.switches) for a in _FIRST for b in _SECOND),
    judge=_lokr,
    dense=True,
)
