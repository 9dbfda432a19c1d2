"""Names without dots, as kohya's scripts write them, back to modules: only where the base leaves no choice.

`lora_unet_down_blocks_0_attentions_0_proj_in` may be cut in many ways; the base's own modules, written the same way, decide.
SDXL's UNet is trained under the names of the original code (`input_blocks_4_1_…`), which :func:`renumbered` turns into
diffusers' (diffusers/loaders/lora_conversion_utils.py has the same table for all of its loaders).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from loradoctor.checkpoint.convert.base_model import BaseModel
from loradoctor.checkpoint.wording import counted, listed
from loradoctor.repair.plan import Refusal

COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "lora_unet_": ("unet", "transformer"),
    "lora_transformer_": ("transformer",),
    "lora_prior_unet_": ("prior",),
    "lora_te1_": ("text_encoder",),
    "lora_te2_": ("text_encoder_2",),
    "lora_te3_": ("text_encoder_3", "text_encoder_2"),
    "lora_te_": ("text_encoder",),
    "lycoris_": ("unet", "transformer", "text_encoder"),
    "diffusion_model.": ("unet", "transformer"),
}
"""Prefix → where a diffusers pipeline keeps the model it may mean (`lora_te3_` is T5: the third encoder of SD3, the second of Flux)."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """One prefix understood: ``component`` of the base, and for each written name its module."""

    component: str
    modules: Mapping[str, str]


Fits = Callable[[str, tuple[int, ...]], bool]
"""Whether the tensors under a written name can belong to a module with a weight of this shape."""


def split(name: str) -> tuple[str, str, str] | None:
    """A tensor's name as prefix, written module and leaf; None when it has none of the prefixes."""
    prefix = next((p for p in COMPONENTS if name.startswith(p)), None)
    if prefix is None:
        return None
    rest = name.removeprefix(prefix)
    match = _LEAF.search(rest)
    return (prefix, rest[: match.start()], match[0][1:]) if match else None


_LEAF = re.compile(
    r"\.((lora_(down|up|mid|A|B)(\.\w+)?|alpha|dora_scale|hada_(w|t)\d(_[ab])?|lokr_(w|t)\d(_[ab])?|oft_\w+|diff(_b)?|scalar|rescale"
    r"|[abc][12](\.weight)?|weight|on_input|scale|bias_\w+|vector))$"
)


def resolve(prefix: str, written: Sequence[str], bases: Mapping[str, BaseModel], fits: Fits) -> Resolved | Refusal:
    """The one component of the base that has every module of ``written`` exactly once, else why there is none."""
    if not bases:
        return Refusal(
            f"names such as `{prefix}{written[0]}` have lost the dots between modules",
            "the base model, or the pipeline's directory (`--base`): its own module names decide",
        )
    # Of one model there is nothing to choose from; of a pipeline only the models that the prefix may mean.
    candidates = bases if set(bases) == {""} else {name: bases[name] for name in COMPONENTS[prefix] if name in bases}
    if not candidates:
        return Refusal(
            f"the base has no {listed(COMPONENTS[prefix])} for the tensors under `{prefix}`", "the directory of the whole pipeline"
        )
    reasons = []
    for component, base in candidates.items():
        found = {name: _modules(name, base, fits) for name in written}
        if all(len(modules) == 1 for modules in found.values()):
            modules = {name: options[0] for name, options in found.items()}
            if len(set(modules.values())) == len(modules):
                return Resolved(component, modules)
        unclear = [name for name, options in found.items() if len(options) != 1]
        reasons.append(
            f"in `{component or 'the base'}` {counted(len(unclear), 'name')} of {len(written)} fit no module or several: {listed(unclear)}"
        )
    return Refusal(f"the names under `{prefix}` do not single out modules: {'; '.join(reasons)}", "the base model it was trained on")


def _modules(written: str, base: BaseModel, fits: Fits) -> list[str]:
    flat = written.replace(".", "_")
    # transformers 5 took a level out of CLIP's text models: weights saved by it lack what the scripts have in their names.
    spellings = (flat, renumbered(flat), flat.removeprefix("text_model_"))
    for spelling in dict.fromkeys(spellings):
        if found := [m for m in base.flattened.get(spelling, ()) if fits(written, base.modules[m])]:
            return found
    return []


_BLOCK = re.compile(r"(input_blocks|middle_block|output_blocks)_(\d+)(?:_(\d+))?_(.+)")
_RESNET = {"in_layers_2": "conv1", "out_layers_3": "conv2", "emb_layers_1": "time_emb_proj", "skip_connection": "conv_shortcut"}
_OUTSIDE = {
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
}
_PER_BLOCK = 3
"""Numbered blocks of the original code in one of SDXL's down or up blocks: two layers and a change of size."""


def renumbered(name: str) -> str:
    """Diffusers' name of a module of the original UNet code (SDXL), the name itself when it is none."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    if match := re.fullmatch(r"middle_block_([012])_(.+)", name):
        kind = ("resnets_0", "attentions_0", "resnets_1")[int(match[1])]
        return f"mid_block_{kind}_{_RESNET.get(match[2], match[2])}"
    match = _BLOCK.fullmatch(name)
    if match is None or match[3] is None or match[1] == "middle_block":
        return name
    number, inner, rest = int(match[2]), int(match[3]), match[4]
    if match[1] == "input_blocks":
        block, layer = divmod(number - 1, _PER_BLOCK)
        if rest == "op":
            return f"down_blocks_{block}_downsamplers_0_conv"
        return f"down_blocks_{block}_{('resnets', 'attentions')[inner]}_{layer}_{_RESNET.get(rest, rest)}" if inner < 2 else name
    block, layer = divmod(number, _PER_BLOCK)
    if rest == "conv":
        return f"up_blocks_{block}_upsamplers_0_conv"
    return f"up_blocks_{block}_{('resnets', 'attentions')[inner]}_{layer}_{_RESNET.get(rest, rest)}" if inner < 2 else name


def groups(names: Iterable[str]) -> tuple[dict[str, dict[str, dict[str, str]]], list[str]]:
    """Prefix → written module → leaf → tensor name, and the names that are of none of these forms."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    strange = []
    for name in names:
        if (cut := split(name)) is None:
            strange.append(name)
        else:
            found.setdefault(cut[0], {}).setdefault(cut[1], {})[cut[2]] = name
    return found, strange
