"""mlx-lm, read in the wheel of 0.32.2 (`mlx_lm/tuner/utils.py`, load_adapters). It reads its own format only."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.targets.facts import Facts
from loradoctor.checkpoint.targets.target import Reaction, Target, Trace, refuses
from loradoctor.checkpoint.wording import counted, listed, verb

_LOAD = "mlx_lm/tuner/utils.py, load_adapters"
_LAYERS = "mlx_lm/tuner/utils.py, linear_to_lora_layers"
_LEAVES = ("lora_a", "lora_b", "m")
_PARAMETERS = ("rank", "scale", "dropout")


def _format(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    if not facts.mlx:
        why = "it wants `num_layers` and `lora_parameters` in the config and `adapters.safetensors` beside it"
        way_out = "transpose both halves, name them `lora_a` and `lora_b`, set `scale` to alpha / r; or merge and convert the whole model"
        yield "format", Trace("it is not in MLX's format", of="directory"), refuses(why, way_out, _LOAD)


def _config(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    if not facts.mlx or facts.get("fine_tune_type") == "full":
        return
    parameters = facts.get("lora_parameters")
    missing = [] if facts.get("num_layers") is not None else ["num_layers"]
    if isinstance(parameters, dict):
        missing += [f"lora_parameters.{p}" for p in _PARAMETERS if p not in parameters]
    else:
        missing.append("lora_parameters")
    if missing:
        renamed = isinstance(parameters, dict) and "alpha" in parameters and "scale" not in parameters
        way_out = "`scale` is the whole factor: alpha / rank" if renamed else "write them as they were in training"
        yield "missing-field", Trace(f"the config has no {listed(missing)}"), refuses("a KeyError or AttributeError", way_out, _LAYERS)


def _names(facts: Facts) -> Iterator[tuple[str, Trace, Reaction]]:
    if not facts.mlx or facts.get("fine_tune_type") == "full":
        return
    names = tuple(n for n in facts.checkpoint.tensors if n.rpartition(".")[2] not in _LEAVES)
    if names:
        says = f"{counted(len(names), 'tensor')} {verb(len(names), 'is', 'are')} no `lora_a`, `lora_b` or `m` ({listed(names, 1)})"
        yield "names", Trace(says, names[0], "weights", names), refuses(
            "`Adapter … contains incompatible tensors`", "take them out, or fuse the adapter with the mlx-lm that wrote it", _LOAD)  # fmt: skip


TARGET = Target("mlx", "mlx-lm", "0.32.2", {}, own=(_format, _config, _names), reads_mlx=True)
