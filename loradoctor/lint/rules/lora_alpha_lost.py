"""LD331."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Config, Model, Peft
from loradoctor.lint.flow.values import Derived, Value
from loradoctor.lint.module import Arrival, Module, literal
from loradoctor.rule import rule

_DEFAULT = 8
"""What `r` and `lora_alpha` are where they are not given."""
_OTHER_SCALES = ("use_rslora", "rank_pattern", "alpha_pattern")


@rule("LD331", Severity.ERROR, "DF2")
def lora_alpha_lost(module: Module) -> Iterator[Finding]:
    """A LoRA whose `lora_alpha` differs from `r` is written without its scaling.

    `save_lora_weights` writes tensors and no configuration, unless it is handed the adapter's metadata. `load_lora_weights`
    then takes the scaling to be 1: a LoRA trained with `lora_alpha=8` and `r=4` acts at half its strength.

    ```python
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, get_peft_model_state_dict

    unet = UNet2DConditionModel.from_pretrained("acme/stable-diffusion", subfolder="unet")
    unet.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_v"]))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights("runs/poster", unet_lora_layers=layers)
    ```
    What to write instead:
    ```python
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.training_utils import _collate_lora_metadata
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, get_peft_model_state_dict

    unet = UNet2DConditionModel.from_pretrained("acme/stable-diffusion", subfolder="unet")
    unet.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_v"]))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    metadata = _collate_lora_metadata({"unet": unet})
    StableDiffusionPipeline.save_lora_weights("runs/poster", unet_lora_layers=layers, **metadata)
    ```
    With `lora_alpha` equal to `r` there is nothing to lose.
    """
    for site in module.calls("save_lora_weights", "diffusers.*"):
        if not site.name.endswith("save_lora_weights"):
            continue
        for arrival in site.arrivals:
            config = next((c for c in _configs(module, arrival) if _scaled(c)), None)
            if config is None:
                continue
            rank, alpha = _number(config, "r"), _number(config, "lora_alpha")
            yield site.finding(
                f"a LoRA with `r={rank}` and `lora_alpha={alpha}` is written without its scaling",
                related=module.related(config.made, "configured here"),
                help="it loads with scaling 1; pass `**_collate_lora_metadata({…})`, or train with `lora_alpha` equal to `r`",
            )
            break


def _configs(module: Module, arrival: Arrival) -> Iterator[Config]:
    """The configurations of the adapters that a call writes, where it gets no metadata."""
    given = arrival.visit.binding
    if given.open or any(name.endswith("_adapter_metadata") for name in given.values):
        return
    for name, value in given.values.items():
        if name.endswith("_lora_layers") and isinstance(value, Derived) and value.kind == "adapter_state_dict":
            found = _config(module, arrival, value.source)
            if found is not None:
                yield found


def _config(module: Module, arrival: Arrival, model: Value) -> Config | None:
    wrapper = arrival.facts(model, Peft)
    if wrapper is not None:
        return arrival.facts(wrapper.config, Config)
    plain = arrival.facts(model, Model)
    site = module.sites.get(plain.native.uid) if plain is not None and isinstance(plain.native, ir.Call) else None
    found = [a.facts(a.arg("adapter"), Config) for a in site.arrivals] if site is not None else []
    return found[0] if found and all(f == found[0] for f in found) else None


def _number(config: Config, name: str) -> int | float | None:
    value = config.get(name)
    number = _DEFAULT if value is None else literal(value)
    return number if isinstance(number, (int, float)) else None


def _scaled(config: Config) -> bool:
    if config.cls != "peft.LoraConfig" or not config.complete or config.loaded_from is not None:
        return False
    rank, alpha = _number(config, "r"), _number(config, "lora_alpha")
    return None not in (rank, alpha) and rank != alpha and not any(config.get(name) for name in _OTHER_SCALES)
