"""OFT, BOFT, HRA, PSOFT and RoAd: the base weights are turned, not added to.

Shapes: `update_layer` in peft/tuners/{oft,boft,hra,psoft,road}/layer.py. The rotation of a convolution spans in·height·width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from loradoctor.checkpoint.adapter_config import AdapterConfig, number
from loradoctor.checkpoint.methods.dims import IN, OUT, R, name, pairs
from loradoctor.checkpoint.methods.table import Layout, Parameter, Problem, Roles, Shapes, Switch, Table, each, part

_B, _BLOCKS = name("block"), name("blocks")


def adjusted(size: int, wanted: int) -> int:
    """The divisor of ``size`` nearest to ``wanted``, which PEFT takes when ``wanted`` does not divide it (oft/layer.py)."""
    if wanted >= size:
        return size
    higher = next(n for n in range(wanted, size + 1) if size % n == 0)
    lower = next(n for n in range(wanted, 0, -1) if size % n == 0)
    return lower if wanted - lower <= higher - wanted else higher


def _natural(config: AdapterConfig, field: str, default: int) -> int:
    value = config.get(field, default)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _oft(config: AdapterConfig, _: str, shapes: Shapes, sizes: Mapping[str, int]) -> Iterator[Problem]:
    """Whether `oft_block_size` (or `r`, the number of blocks) gives the blocks that the tensor has; both follow from its shape."""
    block, blocks = sizes.get("block"), sizes.get("blocks")
    role = next(iter(shapes), "oft_R")
    if not block or not blocks:
        return
    size, count = _natural(config, "oft_block_size", 32), _natural(config, "r", 0)
    share = config.flag("block_share")
    if share and blocks != 1:
        yield Problem("block_share", f"`block_share` is set, but `{role}` has {blocks} blocks of its own")
    elif share:
        # One block for all: how many there are, and so whether the size was adjusted, only the base model knows.
        if size and block > 2 * size:
            yield Problem("oft_block_size", f"`oft_block_size` says {size}, but the tensors have blocks of {block}")
    elif size and not count and block != adjusted(block * blocks, size):
        if blocks == 1:
            yield Problem("block_share", f"`{role}` has one block of {block}, as with `block_share`, or `oft_block_size` is not {size}")
        else:
            yield Problem("oft_block_size", f"`oft_block_size` says {size}, but the tensors have blocks of {block}")
    elif count and not size and blocks != adjusted(block * blocks, count):
        yield Problem("r", f"`r` says {count} blocks, but the tensors have {blocks}")


OFT = Table(
    layouts=tuple(Layout({role: part(_BLOCKS, pairs("block"))}) for role in ("oft_R", "oft_embedding_R")),
    judge=_oft,
)

BOFT = Table(
    given=(Parameter("block", "boft_block_size", 4), Parameter("blocks", "boft_block_num", 0)),
    layouts=(
        Layout(each(boft_R=part(name("factors"), _BLOCKS, _B, _B), boft_s=part(OUT, 1))),
        Layout(each(boft_R=part(name("factors"), _BLOCKS, _B, _B), boft_s=part(1, OUT))),
    ),
    identity={"boft_R": 0.0, "boft_s": 1.0},
)

HRA = Table(given=(Parameter("r", "r", 8),), layouts=(Layout(each(hra_u=part(IN, R))),))


def _psoft(config: AdapterConfig, _: Roles) -> tuple[Layout, ...]:
    turning = part(pairs("r")) if config.get("psoft_orth", True) else part(R, R)
    return (
        Layout(
            {
                "psoft_R": turning,
                "psoft_R.vector_a": part(R, switch=Switch("psoft_mag_a", default=True, title="the magnitudes `vector_a`")),
                "psoft_R.vector_b": part(R, switch=Switch("psoft_mag_b", default=True, title="the magnitudes `vector_b`")),
            }
        ),
    )


PSOFT = Table(
    given=(Parameter("r", "r", 32),),
    layouts_for=_psoft,
    tails={"psoft_R": "vector_a|vector_b"},
    rebuilt=True,
    identity={"psoft_R": 0.0, "psoft_R.vector_a": 1.0, "psoft_R.vector_b": 1.0},
)


def _road(config: AdapterConfig, _: str, __: Shapes, sizes: Mapping[str, int]) -> Iterator[Problem]:
    """`group_size` must divide the outputs: half as many angles in road_1, as many in road_2, twice as many in road_4."""
    angles, group = sizes.get("angles"), number(config.get("group_size", 64))
    outputs = {"road_1": 2.0, "road_2": 1.0, "road_4": 0.5}.get(str(config.get("variant", "road_1")))
    if angles is None or not group or outputs is None:
        return
    if math.fmod(angles * outputs, group) != 0:
        yield Problem("group_size", f"{angles} angles mean {angles * outputs:g} outputs, which `group_size` {group:g} does not divide")


ROAD = Table(
    layouts=(Layout(each(road_theta=part(name("angles")), road_alpha=part(name("angles")))),),
    judge=_road,
    identity={"road_theta": 0.0, "road_alpha": 1.0},
)
