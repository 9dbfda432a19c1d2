"""Other tools' names for LoRA tensors, recognised by how they look."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """A naming scheme: ``sign`` finds a tensor of it, ``way_out`` says how it gets into PEFT's."""

    name: str
    title: str
    sign: re.Pattern[str]
    way_out: str


FORMATS = (
    Format(
        "kohya",
        "kohya's sd-scripts (`lora_down`, `lora_up`, `alpha`)",
        re.compile(r"^lora_(unet|te\d?|transformer|prior)_|\.lora_(down|up)\.|^lycoris_"),
        "load it with `load_lora_weights` of diffusers, or convert the names and set lora_alpha from the `alpha` tensors",
    ),
    Format(
        "diffusers",
        "diffusers' attention processors (`lora.down`, `lora.up`)",
        re.compile(r"\.(\w*_)?lora\.(down|up)\.|processor\.\w+_lora\."),
        "load it with `load_lora_weights` of diffusers and save it again",
    ),
    Format(
        "torchtune",
        "torchtune (`lora_a.weight`, `lora_b.weight`)",
        re.compile(r"\.lora_[ab]\.weight$"),
        "save with torchtune's PEFT output (`save_adapter_weights_only` and a `FullModelHFCheckpointer`), which also permutes q and k",
    ),
    Format(
        "mlx",
        "MLX (`lora_a` is (in, r), `lora_b` is (r, out))",
        re.compile(r"\.lora_[ab]$"),
        "transpose both halves, rename them to `lora_A.weight` and `lora_B.weight`, and set lora_alpha to scale x rank",
    ),
)
PIPELINE = Format(
    "diffusers-pipeline",
    "a diffusers pipeline (`unet.`, `transformer.`, `text_encoder.` before PEFT's names)",
    re.compile(r"^(unet|transformer|prior|text_encoder(_\d)?)\..*\.lora(_A|_B|\.(up|down))\."),
    "load it with `load_lora_weights` of diffusers; it has no `adapter_config.json` because the pipeline keeps rank and alpha itself",
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
