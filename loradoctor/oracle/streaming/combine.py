"""Several LoRA adapters as one, by PEFT's `add_weighted_adapter` on a base without weights."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch

from ..model.base import is_hollow
from ..model.load import ADAPTER
from ..model.prepared import disarm, start, store_as

COMBINATIONS = (
    "cat", "linear", "svd", "ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd", "magnitude_prune",
    "magnitude_prune_svd",
)  # fmt: skip
"""what PEFT can do with them (peft/tuners/lora/model.py: add_weighted_adapter)"""


def combine(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """Save the combination of ``adapters`` with ``weights`` as an adapter in the directory ``to``.

    ``adapter`` is the first of them, by which the base is built; ``combination`` is one of :data:`COMBINATIONS`, ``density`` and
    ``svd_rank`` are numbers or null, ``majority_sign`` is `total` or `frequency`, ``seed`` is for the methods that drop at random. The
    answer has the ``rank``, or ``refused``, a clause.
    """
    from ..model.base import Unbuildable

    try:
        base = start(request, progress)
    except Unbuildable as why:
        return {"refused": f"the base model cannot be built: {why}"}
    # PEFT gives the new adapter the base's dtype: on a base in bfloat16 the combination itself would be rounded.
    store_as(base, torch.float32)
    names = [f"adapter_{number}" for number in range(len(request["adapters"]))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = _loaded(base.model, dict(zip(names, request["adapters"], strict=True)), progress)
            progress(f"combining {len(names)} adapters")
            torch.manual_seed(request.get("seed") or 0)
            with torch.no_grad():
                model.add_weighted_adapter(names, request["weights"], ADAPTER, request["combination"], **_settings(request))
            for name in names:
                model.delete_adapter(name)
            model.set_adapter(ADAPTER)
            for parameter in model.parameters():
                if not is_hollow(parameter.data):
                    parameter.data = parameter.data.contiguous()  # peft 0.17 leaves transposed factors, which nothing saves
            model.save_pretrained(request["to"], save_embedding_layers=False)
        except _Refused as why:
            return {"refused": str(why)}
        except Exception as error:  # noqa: BLE001 -- what PEFT does not combine it says in a dozen types
            if "math domain" in str(error):
                return {"refused": f"peft {peft.__version__} does not subtract with `{request['combination']}`, which later releases do; `cat` does"}
            said = str(error).strip().splitlines()
            return {"refused": f"PEFT does not combine them: {type(error).__name__}: {said[0] if said else ''}"}
    return {"rank": int(model.peft_config[ADAPTER].r)}


class _Refused(Exception):
    pass


def _loaded(base: Any, adapters: dict[str, str], progress: Callable[..., None]) -> Any:
    model: Any = None
    for name, directory in adapters.items():
        progress(f"loading {Path(directory).name}")
        config = peft.PeftConfig.from_pretrained(directory)
        disarm(config)
        _must_combine(config, directory)
        if model is None:
            model = peft.PeftModel.from_pretrained(base, directory, adapter_name=name, config=config, torch_device="cpu")
            continue
        model.add_adapter(name, config)
        found = model.load_adapter(directory, adapter_name=name, torch_device="cpu")
        if found.missing_keys and any(f".{name}." in key for key in found.missing_keys):
            raise _Refused(f"`{directory}` does not load fully: `{found.missing_keys[0]}` is missing")
    return model


def _must_combine(config: Any, directory: str) -> None:
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind != "LORA":
        raise _Refused(f"`{directory}` is {kind}, and PEFT combines LoRA adapters only")
    odd = [name for name in ("use_dora", "lora_bias", "layer_replication", "alora_invocation_tokens") if getattr(config, name, None)]
    if odd:
        raise _Refused(f"`{directory}` has `{odd[0]}`, which PEFT's combinations leave out without a word: merge one after the other")
    init = getattr(config, "init_lora_weights", True)
    if isinstance(init, str) and init.lower().startswith(("pissa", "olora", "corda", "loftq")):
        raise _Refused(f"`{directory}` was initialised with `{init}`, so its update is relative to another base: convert it to plain LoRA first")


def _settings(request: dict[str, Any]) -> dict[str, Any]:
    known = {"density": request.get("density"), "svd_rank": request.get("svd_rank")}
    with contextlib.suppress(KeyError):
        known["majority_sign_method"] = request["majority_sign"]
    return {name: value for name, value in known.items() if value is not None}
