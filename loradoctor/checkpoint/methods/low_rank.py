"""LoRA with all its variants, and AdaLoRA.

Shapes: peft/tuners/lora/layer.py and variants.py, peft/tuners/adalora/layer.py.
"""

from __future__ import annotations

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.methods.dims import IN, OUT, R, name
from loradoctor.checkpoint.methods.table import Layout, Parameter, Part, Roles, Switch, Table, each, part

_DORA = Switch("use_dora", title="DoRA's magnitudes")
_BIAS = Switch("lora_bias", title="biases of `lora_B`")
_KASA = Switch("kasa_config", title="KaSA's singular values")
_VELORA = Switch("velora_config", title="VeLoRA's projection")
_MONTE = Switch("monteclora_config", title="MonteCLoRA's sampler")
_SAMPLER = "lora_monteclora_sampler"
_SAMPLES = name("samples")


def _variants(magnitude: Part) -> dict[str, Part]:
    return {
        "lora_magnitude_vector": magnitude,
        "lora_B.bias": part(OUT, switch=_BIAS),
        "lora_diag": part(R, switch=_KASA),
        # Made on the first step of training, so that an adapter may lack it.
        "lora_velora_embed": part(name("group"), switch=_VELORA, optional=True),
        f"{_SAMPLER}.expert_weights": part(_SAMPLES, switch=_MONTE),
        f"{_SAMPLER}.expert_weights_prior": part(_SAMPLES, switch=_MONTE),
        f"{_SAMPLER}.gaussian_var_prior": part(R, R, switch=_MONTE),
        f"{_SAMPLER}.std_prior": part(R, switch=_MONTE),
    }


_LINEAR = Layout({"lora_A": part(R, IN), "lora_B": part(OUT, R), **_variants(part(OUT, switch=_DORA))})
# A grouped convolution divides the columns of B; groups are the base model's to know.
_CONVOLUTION = Layout(
    {"lora_A": part(R, IN, ...), "lora_B": part(OUT, R / name("groups"), ...), **_variants(part(1, OUT, ..., switch=_DORA))},
)
_EMBEDDING = Layout(
    {
        "lora_embedding_A": part(R, name("tokens")),
        "lora_embedding_B": part(OUT, R),
        "lora_magnitude_vector": part(OUT, switch=_DORA),
    },
)


def _special(config: AdapterConfig, _: Roles) -> tuple[Layout, ...]:
    """Layouts that a setting makes possible: fused experts stack their factors, block-diagonal factors are narrower."""
    found: list[Layout] = []
    if config.get("target_parameters"):
        stacked = R * name("experts")
        found.append(Layout({"lora_A": part(stacked, IN), "lora_B": part(OUT, stacked)}))
    if config.get("use_bdlora"):
        found.append(Layout({"lora_A": part(R, IN), "lora_B": part(OUT, R / name("blocks"))}))
    return tuple(found)


LORA = Table(
    given=(Parameter("r", "r", 8, pattern="rank_pattern"),),
    layouts=(_LINEAR, _CONVOLUTION, _EMBEDDING),
    tails={_SAMPLER: "expert_weights|expert_weights_prior|gaussian_var_prior|std_prior"},
    layouts_for=_special,
)

# The rank of each module follows from the masks in `rank_pattern`; `lora.expected_rank` reads them.
ADALORA = Table(
    layouts=(Layout(each(lora_A=part(R, IN), lora_B=part(OUT, R), lora_E=part(R, 1))), _EMBEDDING),
)
