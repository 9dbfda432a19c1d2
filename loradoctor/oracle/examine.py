"""The whole examination: build the base, load the adapter, merge module by module."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from .audit.audit import audit
from .device import NoDevice, chosen
from .files.weights import BaseWeights, WeightsError
from .model import loaders
from .model.base import Base, Unbuildable
from .model.isolated import defer_init
from .model.load import ADAPTER, FROM_FILE, Outcome, stored
from .model.prepared import Prepared, disarm, prepare, quantization, start
from .proof import merge as merging

Progress = Callable[[str], None]


def examine(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Everything the request asks for.

    Keys: ``versions``; ``class`` and ``base_error`` of the base; ``device_error``; ``modules`` (names of the base's modules); ``loads``; ``loaders``
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
    try:
        base = start(request, progress)
    except Unbuildable as reason:
        return {**result, "base_error": str(reason)}
    result["class"] = base.class_name
    result["modules"] = [name for name, _ in base.model.named_modules() if name]
    result["shapes"] = {n: list(p.shape) for n, p in base.model.named_parameters(remove_duplicate=False)}
    result["quantization"] = quantization(base)
    result["vocabulary"] = _vocabulary(base.model)
    wanted = bool(request.get("merge"))
    try:
        device = chosen(request.get("device"))
    except NoDevice as reason:
        return {**result, "device_error": str(reason)}
    copy = request.get("merged")
    prepared = prepare(request, base, weights=wanted or bool(copy), progress=progress)
    outcome, directory = prepared.outcome, prepared.directory
    result["loads"] = outcome.as_json()
    result["replaced"] = _replaced(prepared) if prepared.model is not None else []
    if wanted:
        result.update(_merge(prepared, request, device, progress))
    if copy:
        result["audit"] = audit(prepared, copy, progress)
    if request.get("forward") and prepared.model is not None:
        result.update(_forward(request, base, directory, progress))
    del prepared
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


def _replaced(prepared: Prepared) -> list[str]:
    """The saved `base_layer` weights that are not the base's own: the adapter was trained on another one."""
    found = []
    for name, parameter in prepared.model.named_parameters():
        if not getattr(parameter, FROM_FILE, False) or not name.endswith(".base_layer.weight"):
            continue
        try:
            own = prepared.weights.find(prepared.base.names.get(id(parameter), ()), parameter.shape)
        except WeightsError:
            continue  # the module's own merge says why its weight cannot be had
        # One part in a hundred is far above what storing in another dtype changes and far below another model.
        if own is not None and float((parameter.data.float() - own.float()).norm()) > 0.01 * float(own.float().norm()):
            found.append(name)
    return found


def _merge(prepared: Prepared, request: dict[str, Any], device: torch.device, progress: Progress) -> dict[str, Any]:
    if quantization(prepared.base):
        prepared = merging.on_quantized(prepared, request, progress)
    if prepared.weights_error:
        return {"merge_error": prepared.weights_error}
    if prepared.model is None:
        return {"merge_error": "PEFT does not load the adapter onto this base"}
    if prepared.model.peft_config[ADAPTER].is_prompt_learning:
        return {"merge": [], "unmergeable": "prompt learning adds inputs, not weights: there is nothing to merge"}
    found = merging.examine(prepared, progress, device)
    if not found and not prepared.adapted:
        return {"merge": [], "unmergeable": "the method adapts no layer that could be merged"}
    return {"merge": found}


def _forward(request: dict[str, Any], base: Base, directory: str, progress: Progress) -> dict[str, Any]:
    from .forward import compare

    progress("running the whole model")
    try:
        if request.get("online"):
            BaseWeights.at(Path(request["base"]), online=True, progress=progress).obtain_all()
        config = peft.PeftConfig.from_pretrained(directory)
        disarm(config)
        online, labels = bool(request.get("online")), request.get("num_labels")
        return {"forward": compare(request["base"], base.class_name, directory, config, online=online, num_labels=labels)}
    except Exception as error:  # noqa: BLE001 -- informational: why it could not run is all there is to say
        text = str(error).strip().split("\n")[0]
        return {"forward_error": f"{type(error).__name__}: {text}"}
