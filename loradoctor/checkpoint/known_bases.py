"""Which well-known base models have the widths and the depth that an adapter's tensors show.

`known_bases.json` holds their sizes and where each was read; `tools/known_bases.py` writes it.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint

TABLE = Path(__file__).with_name("known_bases.json")

ENOUGH = 3
"""sizes that must be known and equal, one of them the hidden size: any two are shared by unrelated models"""

_INNER = ("gate_proj", "up_proj", "fc1", "c_fc", "dense_h_to_4h", "fc_in")
_OUTER = ("down_proj", "fc2", "dense_4h_to_h", "fc_out")
_KEYS = ("k_proj", "v_proj", "key", "value", "k_lin", "v_lin")
_QUERY = ("q_proj", "query", "q_lin")
_JOINT = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "W_pack")
_READS_HIDDEN = frozenset((*_INNER, *_KEYS, *_QUERY, *_JOINT, "gate_up_proj"))
_WRITES_HIDDEN = frozenset((*_OUTER, "o_proj"))
_EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings")
_LAYER = re.compile(r"(.*?)\.(\d+)\.")
_ELSEWHERE = re.compile(r"vision|visual|image|audio|speech|encoder|cross", re.IGNORECASE)
"""parts of a model whose sizes are not those of its language model"""

_WORDS = {"hidden": "hidden size {}", "intermediate": "intermediate size {}", "layers": "{} layers", "kv": "kv width {}"}
_GPT2 = "openai-community/"
"""owner of the models that the hub also knows without one"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the tensors show of the base, None where they do not. ``joint`` is query and both keys and values in one projection."""

    hidden: int | None = None
    intermediate: int | None = None
    layers: int | None = None
    query: int | None = None
    kv: int | None = None
    joint: int | None = None
    vocabulary: int | None = None

    def __str__(self) -> str:
        """``hidden size 4096, 32 layers, kv width 1024``."""
        return ", ".join(text.format(getattr(self, key)) for key, text in _WORDS.items() if getattr(self, key) is not None)

    def as_data(self) -> dict[str, int]:
        """The known sizes."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def sizes(checkpoint: Checkpoint) -> Sizes:
    """The sizes of the language model that the tensors of a LoRA were made for."""
    seen: dict[str, Counter[int]] = defaultdict(Counter)
    layers: dict[str, set[int]] = defaultdict(set)
    for module, roles in checkpoint.by_module.items():
        stack = _LAYER.match(f"{module}.")
        if stack is None or _ELSEWHERE.search(stack[1]):
            continue
        shapes = [checkpoint.tensors[roles[half].name].shape if half in roles else () for half in ("lora_A", "lora_B")]
        if [len(s) for s in shapes] != [2, 2]:
            continue
        layers[stack[1]].add(int(stack[2]))
        for kind, value in _of_module(module.rpartition(".")[2], read=shapes[0][1], written=shapes[1][0]):
            seen[kind][value] += 1
    if not seen:
        return Sizes()
    for key in checkpoint.keys:
        shape = checkpoint.tensors[key.name].shape
        if key.role in ("", "modules_to_save", "base_layer") and key.suffix == "weight" and key.short in _EMBEDDINGS and len(shape) == 2:
            seen["vocabulary"][shape[0]] += 1
    # One size per kind: where layers differ (Gemma 3n, pruned models) it says nothing about the model as a whole.
    found = {kind: next(iter(values)) for kind, values in seen.items() if len(values) == 1}
    deepest = max(layers.values(), key=len)
    whole = deepest == set(range(len(deepest))) and not _restricted(checkpoint)
    return Sizes(**found, layers=len(deepest) if whole else None)


def _of_module(name: str, *, read: int, written: int) -> Iterator[tuple[str, int]]:
    if name in _READS_HIDDEN:
        yield "hidden", read
    if name in _WRITES_HIDDEN:
        yield "hidden", written
    if name in _INNER:
        yield "intermediate", written
    elif name in _OUTER:
        yield "intermediate", read
    elif name == "gate_up_proj":
        yield "intermediate", written // 2
    elif name in _KEYS:
        yield "kv", written
    elif name in _QUERY:
        yield "query", written
    elif name == "o_proj":
        yield "query", read
    elif name in _JOINT:
        yield "joint", written


def _restricted(checkpoint: Checkpoint) -> bool:
    config = checkpoint.config
    return config is not None and any(config.get(key) for key in ("layers_to_transform", "layer_replication", "exclude_modules"))


@functools.cache
def _file() -> Mapping[str, Any]:
    return dict(json.loads(TABLE.read_text(encoding="utf-8")))


@functools.cache
def table() -> Mapping[str, Mapping[str, Any]]:
    """Name on the hub → its sizes, ``joint`` included, and its ``type``."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, entry in _file()["bases"].items():
        joint = {"joint": entry["query"] + 2 * entry["kv"]} if "query" in entry and "kv" in entry else {}
        found[name] = {**entry, **joint}
    return found


def fitting(shown: Sizes, modules: Collection[str]) -> tuple[str, ...]:
    """The known bases that have these sizes and whose architecture has these ``modules``, none when too little is shown to tell."""
    known = shown.as_data()
    if "hidden" not in known:
        return ()
    inner = {_LAYER.sub("", f"{m}.", count=1).rstrip(".") for m in modules if _LAYER.match(f"{m}.")}
    families = {kind for kind, names in _file()["modules"].items() if inner <= set(names)}
    found = [
        name
        for name, entry in table().items()
        if entry["type"] in families and len(known.keys() & entry.keys()) >= ENOUGH and all(entry.get(k, v) == v for k, v in known.items())
    ]
    # What was made from a model has a longer name as a rule.
    return tuple(sorted(found, key=lambda name: (len(name), name)))


def conflict(shown: Sizes, name: str) -> tuple[str, int] | None:
    """A size that the known base ``name`` cannot have, in words, with its own; None when there is none or the base is unknown.

    An adapter may leave layers alone and bring an embedding of its own, but it has no layer more than its base and no other width.
    """
    entry = next((e for known, e in table().items() if name.lower() in (known.lower(), known.lower().removeprefix(_GPT2))), {})
    for key in ("hidden", "kv", "intermediate", "query", "joint", "layers"):
        own, value = entry.get(key), getattr(shown, key)
        if own is not None and value is not None and (value > own if key == "layers" else value != own):
            return _WORDS.get(key, f"{key} width {{}}").format(own), own
    return None


def listed(names: tuple[str, ...], limit: int = 3) -> str:
    """Up to ``limit`` names in backticks and how many more there are."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(f"`{name}`" for name in names[:limit]) + rest


def advice(checkpoint: Checkpoint) -> str:
    """A sentence that says what sizes the tensors show and which known bases have them; ``""`` when they show nothing."""
    shown = sizes(checkpoint)
    names = fitting(shown, checkpoint.by_module)
    like = f", like {listed(names)}" if names else ""
    return f"The tensors are of a model with {shown}{like}" if str(shown) else ""
