"""LD332."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Model, Pipeline
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD332", Severity.ERROR, "DF3")
def injected_pipeline_saved(module: Module) -> Iterator[Finding]:
    """A diffusion model or pipeline is saved while LoRA layers sit in it: what loads from there is neither trained nor base.

    The layers rename the weights they wrap to `…base_layer.weight`. `save_pretrained` writes those names, and the load starts
    every such weight at random, with a warning that is easy to miss. Fusing does not remove the layers.

    ```python
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained("acme/stable-diffusion")
    pipe.load_lora_weights("runs/poster")
    pipe.fuse_lora()
    pipe.save_pretrained("out/fused")
    ```
    What to write instead:
    ```python
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained("acme/stable-diffusion")
    pipe.load_lora_weights("runs/poster")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained("out/fused")
    ```
    To save the LoRA alone, use `save_lora_weights`.
    """

    def layers(arrival: Arrival) -> ir.Node | None:
        pipeline = arrival.facts(arrival.receiver, Pipeline)
        if pipeline is not None:
            return pipeline.injected
        model = arrival.facts(arrival.receiver, Model)
        return model.native if model is not None and model.cls.startswith("diffusers.") and not model.touched else None

    for site in module.calls("save_pretrained", "push_to_hub"):
        found = site.sometimes(layers)
        if found is None:
            continue
        whole = found.facts(found.receiver, Pipeline) is not None
        yield site.finding(
            f"a {'pipeline' if whole else 'model'} is {'saved' if site.name == 'save_pretrained' else 'pushed'} with LoRA layers inside",
            related=module.related(layers(found), "the layers go in here"),
            help="its weights are written under other names and start at random when they are loaded; "
            + (
                "call `fuse_lora()` and `unload_lora_weights()` first"
                if whole
                else "save the LoRA with `save_lora_weights`, or call `fuse_lora()` and `unload_lora()` first"
            ),
        )
