"""Write down which modules of every architecture an adapter can be put into.

    python tools/architectures.py [--only llama,gpt2] [--to FILE] [--earlier OLD.json]

Every model class of the installed `transformers` is built from its default configuration on the meta device, which allocates
nothing, with few layers and experts. For each `model_type` the dotted names of its linear, `Conv1D`, embedding and convolution
modules, and of its fused expert parameters, go into `loradoctor/lint/libraries/architectures.json.gz`; numbers in them become `#`.
Of every other module (blocks, norms) the last part of the name is kept, under `other`; modules that only some checkpoints have,
because a field of their configuration says so, are under `variant`. Classes that need another library or cannot
be built from defaults are left out: rules stay silent about what is not listed.

Names change with the library: experts that were modules up to transformers 4 are one parameter in 5. `--earlier` adds what an
older release called its modules, from a file that `--to` wrote under that release. The architectures for which each method of
the installed PEFT knows its target modules are written down beside.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib
import json
import os
import pkgutil
import re
import signal
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

TABLE = Path(__file__).parent.parent / "loradoctor" / "lint" / "libraries" / "architectures.json.gz"
KINDS = ((torch.nn.Linear, "linear"), (Conv1D, "conv1d"), (torch.nn.Embedding, "embedding"))
CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
# Fields of configurations that decide which modules there are; checkpoints differ in them.
VARIANTS: tuple[dict[str, Any], ...] = (
    {"feed_forward_proj": "gated-gelu"},
    {"feed_forward_proj": "relu"},
    {"q_lora_rank": None},
    {"word_embed_proj_dim": 64},
    {"embedding_size": 64},
    {"add_cross_attention": True},
    {"multi_query": False},
    {"use_swiglu_ffn": True},
    {"use_conv_bias": True},
    {"mlp_only_layers": [0]},
    {"first_k_dense_replace": 1},
    {"use_weighted_layer_sum": True},
    {"add_adapter": True},
    {"new_decoder_architecture": True},
    {"parallel_attn": False},
    {"qk_layernorm": True},
    {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": False},
)
# Enough for every pattern of layers there is (Jamba's attention comes once in eight), few enough to be quick.
LAYERS, EXPERTS = 9, 3
SECONDS = 60

Names = dict[str, dict[str, set[str]]]
Table = dict[str, dict[str, list[str]]]


def model_classes() -> Iterator[type[PreTrainedModel]]:
    """Every model class that is defined in a modelling module of transformers and has a configuration."""
    package = importlib.import_module("transformers.models")
    for family in pkgutil.iter_modules(package.__path__):
        folder = importlib.import_module(f"transformers.models.{family.name}")
        for module in pkgutil.iter_modules(getattr(folder, "__path__", [])):
            if not module.name.startswith("modeling_") or module.name.startswith(("modeling_tf_", "modeling_flax_")):
                continue
            try:
                loaded = importlib.import_module(f"{folder.__name__}.{module.name}")
            except (ImportError, RuntimeError, OSError):
                continue
            for value in list(vars(loaded).values()):  # some modules import on access
                if isinstance(value, type) and issubclass(value, PreTrainedModel) and value.__module__ == loaded.__name__:
                    yield value


def shrink(config: Any) -> None:
    """Few layers, few experts, in the configuration and those inside it."""
    for name, value in list(vars(config).items()):
        if isinstance(value, transformers.PretrainedConfig):
            shrink(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            if re.search(r"(^|_)(n_)?layers?$", name) and "index" not in name:
                setattr(config, name, min(value, LAYERS))
            elif re.search(r"(num|n)_(local_|routed_)?experts$|^moe_num_experts$", name):
                setattr(config, name, min(value, EXPERTS))


def names_of(model: torch.nn.Module) -> Iterator[tuple[str, str]]:
    """``(kind, dotted name)`` of every module an adapter can be put into, and of every fused expert parameter."""
    for name, module in model.named_modules():
        kind = next((kind for cls, kind in KINDS if isinstance(module, cls)), "")
        if not kind and isinstance(module, CONVOLUTIONS):
            kind = "convolution"
        if kind and name:
            yield kind, re.sub(r"(?<=\.)\d+(?=\.|$)", "#", name)
        elif name and not (last := name.rpartition(".")[2]).isdigit():
            yield "other", last
    for name, parameter in model.named_parameters():
        if parameter.ndim == 3 and "expert" in name:
            yield "parameter", re.sub(r"(?<=\.)\d+(?=\.|$)", "#", name)


def built(cls: type[PreTrainedModel]) -> Iterator[PreTrainedModel]:
    """The model of a class on the meta device, from its defaults and with each variant; none where defaults are not enough."""
    config_class = getattr(cls, "config_class", None)
    if not isinstance(config_class, type) or cls.__name__.endswith("PreTrainedModel"):
        return
    reason = ""
    for small in (True, False):
        try:
            yield build(cls, config_class(), small=small)
            break
        except Exception as error:  # noqa: BLE001 -- whatever a class lacks, it is left out
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        print(f"left out {cls.__name__}: {reason[:120]}", file=sys.stderr)
        return
    for fields in VARIANTS:
        if hasattr(config_class(), next(iter(fields))):
            with contextlib.suppress(Exception):
                yield build(cls, config_class(**fields), small=True)


def build(cls: type[PreTrainedModel], config: Any, *, small: bool) -> PreTrainedModel:
    """One model on the meta device."""
    signal.alarm(SECONDS)
    try:
        if small:
            shrink(config)
        with torch.device("meta"):
            return cls(config)
    finally:
        signal.alarm(0)


def collect(only: frozenset[str]) -> tuple[Names, dict[str, str]]:
    """The names of every architecture, and the architecture of every class."""
    found: Names = defaultdict(lambda: defaultdict(set))
    classes: dict[str, str] = {}
    for cls in model_classes():
        model_type = getattr(getattr(cls, "config_class", None), "model_type", "")
        if not model_type or (only and model_type not in only):
            continue
        for turn, model in enumerate(built(cls)):
            classes[cls.__name__] = model_type
            for kind, name in names_of(model):
                found[model_type]["variant" if turn and kind != "other" else kind].add(name)
    for kinds in found.values():
        kinds["variant"] -= set().union(*(names for kind, names in kinds.items() if kind != "variant"))
    return found, {name: model_type for name, model_type in classes.items() if model_type in found and is_closed(model_type)}


def is_closed(model_type: str) -> bool:
    """Whether a type decides its modules: no language model, vision model or backbone inside may be any there is."""
    try:
        config = transformers.CONFIG_MAPPING[model_type]
    except KeyError:
        return True  # a part of another model, with a configuration of its own
    parts = getattr(config, "sub_configs", {}).values()
    return not any(part.__name__ == "AutoConfig" for part in parts) and not hasattr(config(), "backbone")


def defaults() -> dict[str, list[str]]:
    """By the name of a PEFT configuration class the architectures whose target modules need not be named."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    known = {
        PEFT_TYPE_TO_CONFIG_MAPPING[method].__name__: sorted(getattr(tuner, "target_module_mapping", {}))
        for method, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()
    }
    return {name: types for name, types in sorted(known.items()) if types}


def only_in(old: Table, new: Table) -> Table:
    """What an older release had and a newer one has not."""
    gone = {t: {k: sorted(set(v) - set(new.get(t, {}).get(k, ()))) for k, v in kinds.items()} for t, kinds in old.items()}
    return {t: kept for t, kinds in gone.items() if (kept := {k: v for k, v in kinds.items() if v})}


def _expired(_: int, __: object) -> None:
    raise TimeoutError(f"not built after {SECONDS} seconds")


def main() -> None:
    """Build every model and write the table."""
    parser = argparse.ArgumentParser(description="Write the table of architectures.")
    parser.add_argument("--only", default="", help="model types to look at")
    parser.add_argument("--to", type=Path, help="write plain JSON there and leave the table alone")
    parser.add_argument("--earlier", type=Path, help="what --to wrote under an older transformers")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _expired)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    PreTrainedModel.init_weights = lambda _: None  # type: ignore[method-assign,unused-ignore] # there is no weight to initialise
    torch.set_num_threads(1)
    names, classes = collect(frozenset(filter(None, options.only.split(","))))
    table = {t: {k: sorted(v) for k, v in sorted(kinds.items()) if v} for t, kinds in sorted(names.items())}
    written: dict[str, Any] = {"transformers": transformers.__version__, "architectures": table, "classes": classes}
    if options.earlier:
        old = json.loads(options.earlier.read_text())
        written |= {"earlier": only_in(old["architectures"], table), "earlier_transformers": old["transformers"]}
    if options.to:
        options.to.write_text(json.dumps(written))
        return
    written["defaults"] = defaults()
    text = json.dumps(written, separators=(",", ":"), sort_keys=True)
    TABLE.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{len(table)} architectures, {TABLE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
