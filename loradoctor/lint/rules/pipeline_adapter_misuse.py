"""LD333."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Pipeline
from loradoctor.lint.flow.values import Known, Template, Value
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD333", Severity.ERROR, "DF4", "DF5")
def pipeline_adapter_misuse(module: Module) -> Iterator[Finding]:
    """A LoRA file goes into a pipeline by the wrong method, or one load puts the one before out of use.

    `load_attn_procs` reads attention processors; a file that `save_lora_weights` wrote makes it fail with a `ValueError`. Two
    `load_lora_weights` in a row put both adapters in, and only the last one is active until `set_adapters` names both.

    ```python
    from diffusers import StableDiffusionPipeline

    def poster(layers):
        StableDiffusionPipeline.save_lora_weights("runs/poster", unet_lora_layers=layers)
        pipe = StableDiffusionPipeline.from_pretrained("acme/stable-diffusion")
        pipe.unet.load_attn_procs("runs/poster")
        return pipe
    ```
    What to write instead:
    ```python
    from diffusers import StableDiffusionPipeline

    def poster(layers):
        StableDiffusionPipeline.save_lora_weights("runs/poster", unet_lora_layers=layers)
        pipe = StableDiffusionPipeline.from_pretrained("acme/stable-diffusion")
        pipe.load_lora_weights("runs/poster")
        return pipe
    ```
    """
    yield from _processors(module)
    yield from _second_loads(module)


def _processors(module: Module) -> Iterator[Finding]:
    if "diffusers" in module.versions:  # older ones read some of these files
        return
    saves: dict[Value, ir.Node] = {}
    for save in module.calls("save_lora_weights", "diffusers.*"):
        if save.name.endswith("save_lora_weights"):
            for arrival in save.arrivals:
                place = arrival.arg("save_directory")
                if isinstance(place, (Known, Template)):
                    saves.setdefault(place, save.node)
    for site in module.calls("load_attn_procs"):
        places = [a.arg("pretrained_model_name_or_path_or_dict") for a in site.arrivals]
        saved = next((saves[p] for p in places if p in saves), None)
        if saved is not None:
            yield site.finding(
                "`load_attn_procs` is given a file of `save_lora_weights`, which it cannot read",
                related=module.related(saved, "written here"),
                help="the call fails with a `ValueError`; call `load_lora_weights` on the pipeline",
            )


def _second_loads(module: Module) -> Iterator[Finding]:
    for site in module.calls("load_lora_weights"):
        found = site.sometimes(_before)
        before = _before(found) if found else None
        if found is None or before is None or before is site.node or module.happened("activated", found.oid(found.receiver)):
            continue
        yield site.finding(
            "a second LoRA is loaded, and the first is no longer active",
            severity=Severity.INFO,
            related=module.related(before, "the first is loaded here"),
            help="only the last one acts; name both with `set_adapters`, or unload the first",
        )


def _before(arrival: Arrival) -> ir.Node | None:
    """The load before this one, if nothing was done with it."""
    facts = arrival.facts(arrival.receiver, Pipeline)
    return facts.waiting if facts is not None else None
