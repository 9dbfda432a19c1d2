"""VeRA, PVeRA, RandLoRA, TinyLoRA, UniLoRA, VB-LoRA and FRoD: small trained parts on projections that modules share.

Shapes: `update_layer` in peft/tuners/{vera,pvera,randlora,tinylora,unilora,vblora,frod}/layer.py and `_init_*` in their model.py.
"""

from __future__ import annotations

from loradoctor.checkpoint.methods.dims import IN, OUT, Formula, R, name
from loradoctor.checkpoint.methods.table import Layout, Parameter, Switch, Table, each, part

_SAVED = Switch("save_projection", default=True, title="the shared projections")
_WIDE, _TALL = name("widest"), name("tallest")

VERA = Table(
    given=(Parameter("r", "r", 256),),
    layouts=(Layout(each(vera_lambda_b=part(OUT), vera_lambda_d=part(R))),),
    shared=each(vera_A=part(R, _WIDE, switch=_SAVED), vera_B=part(_TALL, R, switch=_SAVED)),
)

PVERA = Table(
    given=(Parameter("r", "r", 256),),
    layouts=(Layout(each(pvera_lambda_b=part(OUT), pvera_lambda_d=part(2 * R))),),
    shared=each(pvera_A=part(2 * R, _WIDE, switch=_SAVED), pvera_B=part(_TALL, R, switch=_SAVED)),
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
    identity={"tinylora_v": 0.0},
)

_INDICES = Switch("save_indices", title="the indices into the shared vector")

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
)

_WHOLE = Switch("save_only_topk_weights", on=lambda value: not value, title="all logits")
_TOPK = Switch("save_only_topk_weights", title="the largest weights only")
_VECTORS, _LENGTH, _K = name("vectors"), name("length"), name("topk")
_K_LESS_1 = Formula("topk-1", ("topk",), lambda k: k - 1)
_ROWS, _COLUMNS = name("out/length"), name("in/length")

VBLORA = Table(
    given=(
        Parameter("r", "r", 4),
        Parameter("vectors", "num_vectors", 256),
        Parameter("length", "vector_length", 256),
        Parameter("topk", "topk", 2),
    ),
    layouts=(
        Layout(
            each(
                vblora_logits_A=part(R, _COLUMNS, _VECTORS, switch=_WHOLE),
                vblora_logits_B=part(_ROWS, R, _VECTORS, switch=_WHOLE),
                vblora_logits_A_topk_indices=part(R, _COLUMNS, _K, switch=_TOPK),
                vblora_logits_A_topk_weights=part(R, _COLUMNS, _K_LESS_1, switch=_TOPK),
                vblora_logits_B_topk_indices=part(_ROWS, R, _K, switch=_TOPK),
                vblora_logits_B_topk_weights=part(_ROWS, R, _K_LESS_1, switch=_TOPK),
            )
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
