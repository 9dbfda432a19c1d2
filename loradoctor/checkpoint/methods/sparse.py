"""SHiRA and Supertuning: chosen entries of a weight. Shapes: peft/tuners/{shira,supertuning}/layer.py."""

from __future__ import annotations

from loradoctor.checkpoint.methods.dims import IN, OUT, R, name
from loradoctor.checkpoint.methods.table import Layout, Parameter, Switch, Table, each, part

_COUNT = R * name("in+out")

SHIRA = Table(
    given=(Parameter("r", "r", 32),),
    layouts=(Layout(each(shira_weight=part(_COUNT), shira_indices=part(2, _COUNT))),),
)

_INDICES = Switch("save_precomputed_indices", default=True, title="the indices of the entries")
_SUPRA = Switch("r", default=None, title="low-rank factors")

SUPERTUNING = Table(
    given=(Parameter("r", "r"),),
    layouts=(
        Layout(
            each(
                supertuning_values=part(name("entries")),
                supertuning_indices=part(name("entries"), switch=_INDICES),
                supertuning_lora_A=part(R, IN, switch=_SUPRA),
                supertuning_lora_B=part(OUT, R, switch=_SUPRA),
            )
        ),
    ),
)
