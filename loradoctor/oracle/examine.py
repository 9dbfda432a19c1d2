"""The whole examination: build the base, load the adapter, merge module by module."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from . import loaders
from . import merge as merging
from .base import Base, Unbuildable, build, revision
from .isolated import defer_init
from .load import ADAPTER, FROM_FILE, Outcome, load, stored
from .weights import BaseWeights

Progress = Callable[[str], None]


def examine(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Everything the request asks for.

    Keys: ``versions``; ``class`` and ``base_error`` of the base; ``modules`` (names of the base's modules); ``loads``; ``loaders``
    (one :class:`~.loaders.Row` per loader); ``merge`` (a list) or ``merge_error``; ``forward`` or ``forward_error``.
    """
    result: dict[str, Any] = {
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
    }
    directory = request["adapter"]
    raw = json.loads((Path(directory) / "adapter_config.json").read_text(encoding="utf-8-sig"))
    progress("building the base model from its config")
    try:
        base = build(
            request["base"],
            raw,
            online=bool(request.get("online")),
            num_labels=request.get("num_labels"),
            modules=request.get("modules", ()),
        )
    except Unbuildable as reason:
        return {**result, "base_error": str(reason)}
    result["class"] = base.class_name
    result["modules"] = [name for name, _ in base.model.named_modules() if name]
    result["shapes"] = {n: list(p.shape) for n, p in base.model.named_parameters(remove_duplicate=False)}
    result["quantization"] = _quantization(base)
    wanted = bool(request.get("merge"))
    result["vocabulary"] = _vocabulary(base.model)
    weights, weights_error = _weights(request, raw, base) if wanted else (BaseWeights({}), "")
    progress(f"loading it with {loaders.FROM_PRETRAINED}")
    model, outcome = _load(base, directory)
    result["loads"] = outcome.as_json()
    result["replaced"] = _replaced(model, base, weights) if model is not None else []
    if wanted:
        result.update(_merge(model, base, weights, weights_error, directory, progress))
    if request.get("forward") and model is not None:
        result.update(_forward(request, base, directory, progress))
    del model
    result["loaders"] = _loaders(base, directory, outcome, progress)
    progress("done")
    return result


def _loaders(base: Base, directory: str, outcome: Outcome, progress: Progress) -> list[dict[str, Any]]:
    try:
        # A loader that raises before it reads the file does not know how much there would have been.
        total = outcome.total or len(stored(directory))
    except Exception:  # noqa: BLE001 -- a file that cannot be read is in `outcome` already
        total = 0
    first = replace(loaders.row(loaders.FROM_PRETRAINED, outcome), of=total)
    try:
        config = peft.PeftConfig.from_pretrained(directory)
    except Exception:  # noqa: BLE001 -- PEFT and transformers read it with this call: what it raised is in `outcome`
        same = [replace(first, loader=name) for name in (loaders.LOAD_ADAPTER, loaders.TRANSFORMERS)]
        rest = loaders.Row(loaders.DIFFUSERS, "not-run", 0, total, "PEFT cannot read the config")
        return [r.as_json() for r in (first, *same, rest)]
    defer_init(config)
    disarm(config)
    others = loaders.others(base, directory, config, total, progress)
    return [r.as_json() for r in (first, *(replace(r, of=r.of or total) for r in others))]


def _vocabulary(model: Any) -> int | None:
    """How many tokens the model embeds; None for one that embeds none."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except (AttributeError, NotImplementedError, IndexError):
        return None


def _replaced(model: Any, base: Base, weights: BaseWeights) -> list[str]:
    """The saved `base_layer` weights that are not the base's own: the adapter was trained on another one."""
    found = []
    for name, parameter in model.named_parameters():
        if not getattr(parameter, FROM_FILE, False) or not name.endswith(".base_layer.weight"):
            continue
        own = weights.find(base.names.get(id(parameter), ()), parameter.shape)
        # One part in a hundred is far above what storing in another dtype changes and far below another model.
        if own is not None and float((parameter.data.float() - own.float()).norm()) > 0.01 * float(own.float().norm()):
            found.append(name)
    return found


def _load(base: Base, directory: str) -> tuple[Any, Outcome]:
    try:
        config = peft.PeftConfig.from_pretrained(directory)
    except Exception as error:  # noqa: BLE001 -- a config that PEFT refuses is an outcome
        return None, Outcome(error_type=type(error).__name__, error=str(error).strip())
    defer_init(config)
    disarm(config)
    return load(base, directory, config)


def disarm(config: Any) -> None:
    """Take from an adapter's config what would make PEFT import a module that the config names."""
    # peft/tuners/lora/tp_layer.py imports `megatron_core` by name when `megatron_config` is set; an adapter is somebody's upload.
    if getattr(config, "megatron_config", None):
        config.megatron_config = None


def _quantization(base: Base) -> str | None:
    """How the base is quantized by its own config, None when it is not."""
    config = getattr(base.model.config, "quantization_config", None)
    if not config:
        return None
    name = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    return str(getattr(name, "value", name))


def _weights(request: dict[str, Any], adapter: dict[str, Any], base: Base) -> tuple[BaseWeights, str]:
    if name := _quantization(base):
        return BaseWeights({}), f"the base is quantized ({name}): merging would change its weights anyway"
    try:
        weights = BaseWeights.at(_directory(request, adapter))
        if not weights:
            return weights, "the base has no weights here (only its config)"
        weights.adopt(base.model)
        dtypes = weights.dtypes()
    except Exception as error:  # noqa: BLE001 -- safetensors and torch have a dozen types for an unreadable file
        text = str(error).strip().split("\n")[0]
        return BaseWeights({}), f"the base's weights cannot be read: {type(error).__name__}: {text}"
    for parameter in base.model.parameters():
        # PEFT adapts in the dtype of the base, and the base is loaded in the dtype of its files.
        if parameter.dtype.is_floating_point and dtypes:
            parameter.data = parameter.data[(0,) * parameter.dim()].to(next(iter(dtypes))).expand(parameter.shape)
    return weights, ""


def _directory(request: dict[str, Any], adapter: dict[str, Any]) -> Path:
    if Path(request["base"]).is_dir():
        return Path(request["base"])
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "pytorch_model*.bin"]
    found = snapshot_download(
        request["base"],
        revision=revision(request["base"], adapter),
        local_files_only=not request.get("online"),
        allow_patterns=patterns,
    )
    return Path(found)


def _merge(
    model: Any, base: Base, weights: BaseWeights, weights_error: str, directory: str, progress: Progress
) -> dict[str, Any]:
    if weights_error:
        return {"merge_error": weights_error}
    if model is None:
        return {"merge_error": "PEFT does not load the adapter onto this base"}
    if model.peft_config[ADAPTER].is_prompt_learning:
        return {"merge": [], "unmergeable": "prompt learning adds inputs, not weights: there is nothing to merge"}
    from peft.utils.save_and_load import load_peft_weights

    tensors = load_peft_weights(directory, device="cpu")
    found = merging.examine(model, base, weights, tensors, progress)
    if not found and not merging.adapted_layers(model):
        return {"merge": [], "unmergeable": "the method adapts no layer that could be merged"}
    return {"merge": found}


def _forward(request: dict[str, Any], base: Base, directory: str, progress: Progress) -> dict[str, Any]:
    from .forward import compare

    progress("running the whole model")
    try:
        config = peft.PeftConfig.from_pretrained(directory)
        disarm(config)
        online, labels = bool(request.get("online")), request.get("num_labels")
        return {"forward": compare(request["base"], base.class_name, directory, config, online=online, num_labels=labels)}
    except Exception as error:  # noqa: BLE001 -- informational: why it could not run is all there is to say
        text = str(error).strip().split("\n")[0]
        return {"forward_error": f"{type(error).__name__}: {text}"}
