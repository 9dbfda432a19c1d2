"""MiSS and Bone, GraLoRA, DEFT, DeLoRA, GLoRA, OSF, AdaMSS, PEANuT: further ways to add to a weight.

Shapes: `update_layer` in peft/tuners/{miss,gralora,deft,delora,glora,osf,adamss,peanut}/layer.py; Bone in releases 0.14 to 0.18.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from loradoctor.checkpoint import expression
from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.methods.dims import IN, OUT, Formula, R, name
from loradoctor.checkpoint.methods.table import Layout, Parameter, Part, Problem, Roles, Shapes, Switch, Table, each, part


def _blocks(role: str, default_rank: int, identity: float = 0.0) -> Table:
    """MiSS, and Bone before it: one tensor whose shape `init_weights` decides."""

    def layouts(config: AdapterConfig, _: Roles) -> tuple[Layout, ...]:
        kind = config.get("init_weights", True)
        shapes = {"bat": part(OUT / R, R, R), "mini": part(R, name("mini"))}
        return (Layout({role: shapes[kind] if isinstance(kind, str) and kind in shapes else part(R, OUT)}),)

    return Table(given=(Parameter("r", "r", default_rank), Parameter("mini", "mini_r", 1)), layouts_for=layouts, identity={role: identity})


MISS = _blocks("miss_block", 64)
BONE = _blocks("bone_block", 64)

_K, _HYBRID = name("k"), Switch("hybrid_r", default=0, title="the general factors")

GRALORA = Table(
    given=(Parameter("r", "r", 32), Parameter("k", "gralora_k", 2), Parameter("hybrid", "hybrid_r", 0)),
    layouts=(
        Layout(
            each(
                gralora_A=part(_K, IN / _K, R),
                gralora_B=part(_K, R, OUT / _K),
                gralora_A_general=part(name("hybrid"), IN, switch=_HYBRID),
                gralora_B_general=part(OUT, name("hybrid"), switch=_HYBRID),
            )
        ),
    ),
)

_AT_MOST_OUT = Formula("min(r, out)", ("r", "out"), min)
_PARA = Switch("para", on=lambda value: not value, title="`deft_R`")

DEFT = Table(
    given=(Parameter("r", "r", 8),),
    layouts=(Layout(each(deft_P=part(OUT, _AT_MOST_OUT), deft_R=part(_AT_MOST_OUT, IN, switch=_PARA))),),
)

DELORA = Table(
    given=(Parameter("r", "r", 8, pattern="rank_pattern"),),
    layouts=(Layout(each(delora_A=part(R, IN), delora_B=part(OUT, R), delora_lambda=part(1), delora_w_norm=part(IN))),),
)


def _path(role: str, kind: str, rows: Part, factors: tuple[Part, Part], empty: Part) -> dict[str, Part]:
    """One of GLoRA's five paths: two factors, a vector, one number, or (since they are buffers) zeros that mean nothing."""
    if kind == "lora":
        return {f"{role}.Xd": factors[0], f"{role}.Xu": factors[1]}
    if kind == "none":
        return {f"{role}.zeros": Part(empty.shape, optional=True)}
    return {f"{role}.X": rows if kind == "vector" else part(1)}


def _glora(config: AdapterConfig, _: Roles) -> tuple[Layout, ...]:
    """With a bias to act on, and without one, where the paths C, D and E are empty."""

    def kind(field: str, default: str) -> str:
        value = config.get(field, default)
        return value if isinstance(value, str) else default

    both: dict[str, Part] = {}
    for role in ("glora_A", "glora_B"):
        both |= _path(role, kind("config_A_B", "lora"), part(OUT, 1), (part(OUT, R), part(R, IN)), part(OUT, IN))
    layouts = []
    for of_c, of_d_and_e in ((kind("config_C", "lora"), kind("config_D_E", "constant")), ("none", "none")):
        parts = both | _path("glora_C", of_c, part(IN, 1), (part(IN, R), part(R, 1)), part(IN, 1))
        for role in ("glora_D", "glora_E"):
            parts |= _path(role, of_d_and_e, part(OUT), (part(OUT, R), part(R, 1)), part(OUT))
        layouts.append(Layout(parts))
    return tuple(layouts)


GLORA = Table(
    given=(Parameter("r", "r", 8),),
    layouts_for=_glora,
    tails={"glora_": "X|Xd|Xu|zeros"},
    dense=True,
    identity={f"glora_{path}.{x}": 0.0 for path in "ABCDE" for x in ("Xd", "X")},
)


def _resolved(rank: object, least: int) -> int | None:
    """How many singular values OSF keeps frozen of ``least`` (osf/model.py, `_resolve_rank`)."""
    if rank is None:
        return least // 2
    if isinstance(rank, bool) or not isinstance(rank, (int, float)):
        return None
    wanted = int(least * rank) if isinstance(rank, float) and 0 < rank <= 1 else int(rank)
    return max(min(least, wanted), 0)


def _osf(config: AdapterConfig, module: str, _: Shapes, sizes: Mapping[str, int]) -> Iterator[Problem]:
    trained, rows, columns = sizes.get("trained"), sizes.get("out"), sizes.get("in")
    if trained is None or rows is None or columns is None:
        return
    source, value = "effective_rank", config.get("effective_rank")
    for pattern, rank in config.pattern("rank_pattern").items():
        try:
            if expression.search(pattern, module):
                source, value = "rank_pattern", rank
                break
        except re.error:
            return
    least = min(rows, columns)
    frozen = _resolved(value, least)
    if frozen is not None and least - frozen != trained:
        what = f"leaves {least - frozen} of {least} singular values to train, but the tensors have {trained}"
        yield Problem(source, f"`{source}` {'null' if value is None else value} {what}")


_TRAINED = name("trained")

OSF = Table(
    layouts=(
        Layout(
            {
                "osf_svd_params.U_low": part(OUT, _TRAINED),
                "osf_svd_params.S_low": part(_TRAINED),
                "osf_svd_params.V_low": part(_TRAINED, IN),
            }
        ),
    ),
    tails={"osf_svd_params": "[USV]_low"},
    judge=_osf,
    rebuilt=True,
)


def _adamss(_: AdapterConfig, roles: Roles) -> tuple[Layout, ...]:
    """One pair per subspace of the outputs; how many there are follows from clustering the base weights."""
    numbers = sorted({role.rpartition(".")[2] for role in roles if role.startswith(("adamss_A.", "adamss_B."))})
    parts = {"adamss_newB": part(R, name("in_and_bias"))}
    for number in numbers:
        rank, rows = name(f"rank{number}"), name(f"rows{number}")
        parts[f"adamss_A.{number}"] = part(rank, R)
        parts[f"adamss_B.{number}"] = part(rows, rank)
    return (Layout(parts),)


ADAMSS = Table(layouts_for=_adamss, tails={"adamss_A": r"\d+", "adamss_B": r"\d+"}, rebuilt=True)


def _peanut(config: AdapterConfig, _: Roles) -> tuple[Layout, ...]:
    depth = config.get("depth", 0)
    depth = depth if isinstance(depth, int) and not isinstance(depth, bool) and 0 <= depth < 1000 else 0
    inner = {f"peanut_{half}.{index}": part(R, R) for half in ("encoders", "decoders") for index in range(depth)}
    return (Layout({"peanut_A": part(R, OUT), "peanut_B": part(OUT, R), **inner}),)


PEANUT = Table(given=(Parameter("r", "r", 32),), layouts_for=_peanut, tails={"peanut_encoders": r"\d+", "peanut_decoders": r"\d+"})
