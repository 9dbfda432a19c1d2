"""Write down which modules of every architecture an adapter can be put into.

    python tools/architectures.py [--only llama,gpt2]

Every model class of the installed `transformers` is built from its default configuration on the meta device, which allocates
nothing, with few layers and experts. For each `model_type` the dotted names of its linear, `Conv1D`, embedding and convolution
modules, and of its fused expert parameters, go into `loradoctor/lint/libraries/architectures.json.gz`; numbers in them become `#`.
Classes that need another library or cannot be built from defaults are left out: rules stay silent about what is not listed.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import pkgutil
import re
import signal
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

TABLE = Path(__file__).parent.parent / "loradoctor" / "lint" / "libraries" / "architectures.json.gz"
KINDS = ((torch.nn.Linear, "linear"), (Conv1D, "conv1d"), (torch.nn.Embedding, "embedding"))
CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
# Enough for every pattern of layers there is (Jamba's attention comes once in eight), few enough to be quick.
LAYERS, EXPERTS = 9, 3
SECONDS = 60

Names = dict[str, dict[str, set[str]]]


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
            for value in vars(loaded).values():
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
    for name, parameter in model.named_parameters():
        if parameter.ndim == 3 and "expert" in name:
            yield "parameter", re.sub(r"(?<=\.)\d+(?=\.|$)", "#", name)


def built(cls: type[PreTrainedModel]) -> PreTrainedModel | None:
    """The model of a class on the meta device; None where defaults are not enough."""
    config_class = getattr(cls, "config_class", None)
    if not isinstance(config_class, type) or cls.__name__.endswith("PreTrainedModel"):
        return None
    for small in (True, False):
        signal.alarm(SECONDS)
        try:
            config = config_class()
            if small:
                shrink(config)
            with torch.device("meta"):
                return cls(config)
        except Exception as error:  # noqa: BLE001 -- whatever a class lacks, it is left out
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
        finally:
            signal.alarm(0)
    print(f"left out {cls.__name__}: {reason[:120]}", file=sys.stderr)
    return None


def collect(only: frozenset[str]) -> Names:
    """The names of every architecture."""
    found: Names = defaultdict(lambda: defaultdict(set))
    for cls in model_classes():
        model_type = getattr(getattr(cls, "config_class", None), "model_type", "")
        if not model_type or (only and model_type not in only):
            continue
        model = built(cls)
        for kind, name in names_of(model) if model is not None else ():
            found[model_type][kind].add(name)
    return found


def _expired(_: int, __: object) -> None:
    raise TimeoutError(f"not built after {SECONDS} seconds")


def main() -> None:
    """Build every model and write the table."""
    parser = argparse.ArgumentParser(description="Write the table of architectures.")
    parser.add_argument("--only", default="", help="model types to look at, for a try; nothing is written")
    only = frozenset(filter(None, parser.parse_args().only.split(",")))
    signal.signal(signal.SIGALRM, _expired)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    PreTrainedModel.init_weights = lambda _: None  # type: ignore[method-assign] # there is no weight to initialise
    torch.set_num_threads(1)
    table = {t: {k: sorted(v) for k, v in sorted(kinds.items())} for t, kinds in sorted(collect(only).items())}
    text = json.dumps({"transformers": transformers.__version__, "architectures": table}, separators=(",", ":"), sort_keys=True)
    if only:
        print(text)
        return
    TABLE.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{len(table)} architectures, {TABLE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
