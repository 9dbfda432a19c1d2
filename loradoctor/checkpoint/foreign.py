"""Other tools' names for LoRA tensors, recognised by how they look."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """A naming scheme: ``sign`` finds a tensor of it, ``way_out`` says what to do with it as it is."""

    name: str
    title: str
    sign: re.Pattern[str]
    way_out: str


_KOHYA = r"(lora_unet|lora_te\d?|lora_transformer|lora_prior\w*|lycoris)_"
FORMATS = (
    Format(
        "gguf",
        "llama.cpp (GGUF: `blk.N.….weight.lora_a`)",
        re.compile(r"\.weight\.lora_[ab]$"),
        "use it with llama.cpp",
    ),
    Format(
        "lycoris",
        "LyCORIS (`hada_…`, `lokr_…`, `oft_…` under kohya's module names)",
        re.compile(rf"^{_KOHYA}.*\.(hada_|lokr_|oft_|dora_scale$|diff(_b)?$|on_input$|[abc][12](\.weight)?$)"),
        "load it with the program that it was made for",
    ),
    Format(
        "comfyui",
        "ComfyUI's trainers (`diffusion_model.` before the module)",
        re.compile(r"^diffusion_model\..*\.(lora_(A|B|down|up)\.weight|alpha)$"),
        "load it with ComfyUI or with `load_lora_weights` of diffusers",
    ),
    Format(
        "kohya",
        "kohya's sd-scripts (`lora_down`, `lora_up`, `alpha`)",
        re.compile(rf"^{_KOHYA}|\.lora_(down|up)\."),
        "load it with `load_lora_weights` of diffusers",
    ),
    Format(
        "diffusers",
        "older versions of diffusers (`lora.down`, `lora.up`)",
        re.compile(r"\.(\w*_)?lora\.(down|up)\.|processor\.\w+_lora\.|\.lora_linear_layer\.(down|up)\."),
        "load it with `load_lora_weights` of diffusers",
    ),
    Format(
        "torchtune",
        "torchtune (`lora_a.weight`, `lora_b.weight`)",
        re.compile(r"\.lora_[ab]\.weight$"),
        "use it with torchtune; renaming is not enough, for most models the rows of q and k are in another order",
    ),
    Format(
        "mlx",
        "MLX (`lora_a` is (in, r), `lora_b` is (r, out))",
        re.compile(r"\.lora_[ab]$"),
        "use it with mlx-lm; renaming is not enough, both halves are transposed and the factor is `scale`, not alpha / r",
    ),
)
PIPELINE = Format(
    "diffusers-pipeline",
    "a diffusers pipeline (`unet.`, `transformer.`, `text_encoder.` before PEFT's names)",
    re.compile(r"^(unet|transformer|prior|text_encoder(_\d)?)\..*\.lora(_A|_B|\.(up|down))\."),
    "load it with `load_lora_weights` of diffusers, which needs no `adapter_config.json`",
)


def recognise(names: Iterable[str], *, configured: bool) -> tuple[Format, tuple[str, ...]] | None:
    """The format most of ``names`` are in, with those names; None when they are PEFT's or nobody's.

    ``configured`` says that a PEFT config lies beside them: then a leading `transformer.` is a module of the base model.
    """
    listed = tuple(names)
    for candidate in FORMATS if configured else (*FORMATS, PIPELINE):
        hits = tuple(n for n in listed if candidate.sign.search(n))
        if len(hits) * 2 > len(listed):
            return candidate, hits
    return None
