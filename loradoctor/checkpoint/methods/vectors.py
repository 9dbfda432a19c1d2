"""IA3, LayerNorm tuning, BEFT and trainable tokens: vectors and rows.

Shapes: peft/tuners/{ia3,ln_tuning,beft,trainable_tokens}/layer.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from loradoctor.checkpoint import expression
from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.methods.dims import IN, OUT, name
from loradoctor.checkpoint.methods.table import Layout, Problem, Shapes, Table, each, part


def feedforward(config: AdapterConfig, module: str) -> bool | None:
    """Whether IA3 scales the inputs of ``module`` (ia3/model.py, `_check_target_module_feedforward`); None when PEFT's default decides."""
    names = config.get("feedforward_modules")
    if isinstance(names, str):
        try:
            return expression.fullmatch(names, module) is not None
        except re.error:
            return None
    return any(module.endswith(str(n)) for n in names) if isinstance(names, list) else None


def _ia3(config: AdapterConfig, module: str, shapes: Shapes, _: Mapping[str, int]) -> Iterator[Problem]:
    shape = shapes.get("ia3_l", ())
    scales_inputs = feedforward(config, module)
    if len(shape) != 2 or scales_inputs is None or shape[0] == shape[1]:
        return
    if scales_inputs != (shape[0] == 1):
        names = "names" if scales_inputs else "does not name"
        over = "outputs" if scales_inputs else "inputs"
        yield Problem("feedforward_modules", f"`feedforward_modules` {names} it, but `ia3_l` {list(shape)} scales its {over}")


IA3 = Table(
    layouts=(
        Layout(each(ia3_l=part(OUT, 1))),
        Layout(each(ia3_l=part(1, IN))),
        Layout(each(ia3_l=part(1, OUT, 1, 1))),
        Layout(each(ia3_l=part(1, OUT, 1, 1, 1))),
    ),
    judge=_ia3,
    identity={"ia3_l": 1.0},
)

LN_TUNING = Table(
    # A copy of the whole module, which is a norm by default and may be anything.
    layouts=(Layout({"ln_tuning_layers": part(name("width"), ...), "ln_tuning_layers.bias": part(name("width"), optional=True)}),),
    dense=True,
)

BEFT = Table(
    layouts=(Layout(each(beft_bias=part(1, OUT))),),
    merges="a base layer without bias has nothing to add it to",
)

TRAINABLE_TOKENS = Table(layouts=(Layout(each(trainable_tokens_delta=part(name("tokens"), name("width")))),))
