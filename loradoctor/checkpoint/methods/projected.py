"""VeRA, PVeRA, RandLoRA, TinyLoRA, UniLoRA, VB-LoRA and FRoD: small trained parts on projections that modules share.

Shapes: `update_layer` in peft/tuners/{vera,pvera,randlora,tinylora,unilora,vblora,frod}/layer.py and `_init_*` in their model.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from loradoctor.checkpoint.adapter_config import AdapterConfig, number
from loradoctor.checkpoint.methods.dims import IN, OUT, Formula, R, name
from loradoctor.checkpoint.methods.table import Layout, Parameter, Problem, Shapes, Switch, Table, each, part


def _large_enough(tall: str, rows: str) -> Callable[[AdapterConfig, Mapping[str, Shapes], Shapes], Iterator[Problem]]:
    """PEFT cuts every module's projection out of the shared one, which is therefore as tall as the tallest module (vera/layer.py)."""

    def judge(_: AdapterConfig, modules: Mapping[str, Shapes], common: Shapes) -> Iterator[Problem]:
        height = next(iter(common.get(tall, ())), None)
        heights = {shapes[rows][0] for shapes in modules.values() if shapes.get(rows)}
        if height is not None and heights and max(heights) > height:
            yield Problem("", f"`{tall}` has {height} rows, but a module has {max(heights)} outputs")

    return judge


_SAVED = Switch("save_projection", default=True, title="the shared projections")
_WIDE, _TALL = name("widest"), name("tallest")

VERA = Table(
    given=(Parameter("r", "r", 256),),
    layouts=(Layout(each(vera_lambda_b=part(OUT), vera_lambda_d=part(R))),),
    shared=each(vera_A=part(R, _WIDE, switch=_SAVED), vera_B=part(_TALL, R, switch=_SAVED)),
    judge_all=_large_enough("vera_B", "vera_lambda_b"),
)

PVERA = Table(
    given=(Parameter("r", "r", 256),),
    layouts=(Layout(each(pvera_lambda_b=part(OUT), pvera_lambda_d=part(2 * R))),),
    shared=each(pvera_A=part(2 * R, _WIDE, switch=_SAVED), pvera_B=part(_TALL, R, switch=_SAVED)),
    judge_all=_large_enough("pvera_B", "pvera_lambda_b"),
)

_BASES = Formula("min(in, out)/r", ("least", "r"), lambda least, r: -(-least // r) if r else None)
_LEAST, _ALL = name("least"), name("bases")

RANDLORA = Table(
    given=(Parameter("r", "r", 32),),
    layouts=(
        Layout(
            each(
                randlora_gamma=part(_BASES, _LEAST),
                randlora_lambda=part(R, _BASES),
                randlora_A=part(R, 1, _WIDE, switch=_SAVED),
                randlora_B=part(_TALL, _ALL, R, switch=_SAVED),
            )
        ),
    ),
    shared=each(randlora_A=part(R, 1, _WIDE, switch=_SAVED), randlora_B=part(_TALL, _ALL, R, switch=_SAVED)),
)

_FITTING = Formula("min(r, in, out)", ("r", "in", "out"), min)
_U = name("u")


def _groups(config: AdapterConfig, modules: Mapping[str, Shapes], common: Shapes) -> Iterator[Problem]:
    """One trained vector per group of modules; `weight_tying` says how many groups (tinylora/model.py, `_create_and_replace`)."""
    tying = number(config.get("weight_tying", 0.0))
    if tying is None or not 0 <= tying <= 1 or not modules:
        return
    wanted = max(1, round(len(modules) * (1.0 - tying)))
    size = max(1, len(modules) // wanted)
    used = {min(index // size, wanted - 1) for index in range(len(modules))}
    found = {role for role in common if role.startswith("tinylora_v.")}
    if len(found) != len(used):
        yield Problem(
            "weight_tying",
            f"`weight_tying` {tying:g} gives {len(modules)} modules {len(used)} vectors `tinylora_v`, the file has {len(found)}",
        )


TINYLORA = Table(
    given=(Parameter("r", "r", 2), Parameter("u", "u", 64)),
    layouts=(
        Layout(
            each(
                tinylora_A=part(_FITTING, IN),
                tinylora_B=part(OUT, _FITTING),
                tinylora_P=part(_U, _FITTING, _FITTING, switch=_SAVED),
            )
        ),
    ),
    numbered={"tinylora_v": part(_U)},
    tails={"tinylora_v": r"\d+"},
    judge_all=_groups,
    identity={"tinylora_v": 0.0},
)

_INDICES = Switch("save_indices", title="the indices into the shared vector")


def _indices(config: AdapterConfig, modules: Mapping[str, Shapes], _: Shapes) -> Iterator[Problem]:
    if config.flag("save_indices") and not modules:
        yield Problem("save_indices", "`save_indices` is set, but the file has no indices")


UNILORA = Table(
    given=(Parameter("r", "r", 4), Parameter("length", "theta_d_length", 256)),
    layouts=(
        Layout(
            each(
                unilora_indices_A=part(R, IN, switch=_INDICES),
                unilora_indices_B=part(OUT, R, switch=_INDICES),
                unilora_scales_A=part(R, IN, switch=_INDICES),
                unilora_scales_B=part(OUT, R, switch=_INDICES),
            )
        ),
    ),
    shared=each(unilora_theta_d=part(name("length"))),
    judge_all=_indices,
)

_VECTORS, _LENGTH, _K = name("vectors"), name("length"), name("topk")
_K_LESS_1 = Formula("topk-1", ("topk",), lambda k: k - 1)
_ROWS, _COLUMNS = name("out/length"), name("in/length")

VBLORA = Table(
    given=(
        Parameter("r", "r", 4),
        Parameter("vectors", "num_vectors", 256),
        Parameter("length", "vector_length", 256),
    ),
    layouts=(
        Layout(each(vblora_logits_A=part(R, _COLUMNS, _VECTORS), vblora_logits_B=part(_ROWS, R, _VECTORS))),
        Layout(
            each(
                vblora_logits_A_topk_indices=part(R, _COLUMNS, _K),
                vblora_logits_A_topk_weights=part(R, _COLUMNS, _K_LESS_1),
                vblora_logits_B_topk_indices=part(_ROWS, R, _K),
                vblora_logits_B_topk_weights=part(_ROWS, R, _K_LESS_1),
            ),
            # All logits are read whatever the config says, these only with it.
            (Switch("save_only_topk_weights", title="only the largest weights"),),
        ),
    ),
    shared=each(vblora_vector_bank=part(_VECTORS, _LENGTH)),
)


def category(module: str) -> str:
    """The modules that share FRoD's projections, by the last components of their path (frod/model.py, `_category_from_key`)."""
    parts = module.split(".")
    if len(parts) == 1 or parts[-2].isdigit():
        return parts[-1]
    return "attention_output" if parts[-3:] == ["attention", "output", "dense"] else f"{parts[-2]}_{parts[-1]}"


FROD = Table(
    layouts=(Layout(each(frod_lambda_l=part(IN), frod_lambda_s_values=part(name("entries")))),),
    by_category={
        "frod_V": part(IN, IN, switch=_SAVED),
        "frod_s_indices": part(2, name("entries"), switch=_SAVED),
        "frod_s_size": part(2, switch=_SAVED),
    },
    category=category,
    tails={"frod_V": r"\w+", "frod_s_": r"\w+"},
    rebuilt=True,
)
