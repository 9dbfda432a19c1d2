"""LD330."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow import paths
from loradoctor.lint.flow.facts import Peft
from loradoctor.lint.flow.values import Known, Template, Value
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.rule import rule


@rule("LD330", Severity.ERROR, "DF1")
def peft_dir_into_pipeline(module: Module) -> Iterator[Finding]:
    """An adapter that PEFT saved is given to `load_lora_weights`, which finds nothing in it.

    `save_pretrained` of a PEFT model names its tensors `base_model.model…`; `load_lora_weights` looks for `unet.…`. No name
    matches, no error is raised, and the pipeline draws with the base model.

    ```python
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from peft import PeftModel

    unet = UNet2DConditionModel.from_pretrained("acme/stable-diffusion", subfolder="unet")
    unet = PeftModel.from_pretrained(unet, "runs/first")
    unet.save_pretrained("runs/poster")
    pipe = StableDiffusionPipeline.from_pretrained("acme/stable-diffusion")
    pipe.load_lora_weights("runs/poster")
    ```
    What to write instead:
    ```python
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from peft import PeftModel

    unet = UNet2DConditionModel.from_pretrained("acme/stable-diffusion", subfolder="unet")
    unet = PeftModel.from_pretrained(unet, "runs/first")
    unet.save_pretrained("runs/poster")
    pipe = StableDiffusionPipeline.from_pretrained("acme/stable-diffusion")
    pipe.unet = PeftModel.from_pretrained(pipe.unet, "runs/poster")
    ```
    Or write a LoRA file: `save_lora_weights` with `convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))`.
    """
    saves: dict[Value, Site] = {}
    for save in module.calls("save_pretrained"):
        for arrival in save.arrivals:
            place = _path(arrival.arg("save_directory"))
            if place is not None and _is_unet(arrival):
                saves.setdefault(place, save)
    for save in module.calls("save_lora_weights", "diffusers.*"):
        if save.name.endswith("save_lora_weights"):
            for arrival in save.arrivals:
                if (place := _path(arrival.arg("save_directory"))) is not None:
                    saves.pop(place, None)
    for site in module.calls("load_lora_weights"):
        places = [_path(a.arg("pretrained_model_name_or_path_or_dict")) for a in site.arrivals]
        found, assumed = next((saves[p] for p in places if p is not None and p in saves), None), False
        if found is None:
            found, assumed = _neighbour(site)
        if found is not None:
            yield site.finding(
                "`load_lora_weights` is given a directory that PEFT saved",
                severity=Severity.WARNING if assumed else None,
                related=module.related(found.node, "saved here by `save_pretrained` of a PEFT model"),
                help="no tensor name matches and the base model is used as it is; load it with `PeftModel.from_pretrained(pipe.unet, …)`",
            )


def _path(value: Value | None) -> Value | None:
    return paths.normal(value) if isinstance(value, (Known, Template)) else None


def _neighbour(load: Site) -> tuple[Site | None, bool]:
    """The call of a neighbouring script that saves a PEFT model into the directory that is loaded, and whether that is assumed."""
    for arrival in load.arrivals:
        kept = arrival.kept(arrival.arg("pretrained_model_name_or_path_or_dict"), several=True)
        save = load.module.site(kept.adapter) if kept is not None else None
        if kept is None or save is None or save.module is load.module or "save_lora_weights" in save.module.program.words:
            continue
        if any(_is_unet(a) for a in save.arrivals):
            return save, kept.assumed
    return None, False


def _is_unet(arrival: Arrival) -> bool:
    """Whether a PEFT wrapper around a U-Net is saved; the files of other models are sometimes understood."""
    facts = arrival.facts(arrival.receiver, Peft)
    base = arrival.base(arrival.receiver)
    if facts is None or facts.gutted or base is None:
        return False
    return base[1].cls.startswith("diffusers.UNet") or (isinstance(base[0], str) and base[0].endswith(".unet"))
