"""What lies where a base model was expected, by the names of the files: standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable

_KINDS = (
    (re.compile(r"adapter_config\.json|adapter_model\.(safetensors|bin)"), "it is an adapter itself"),
    (re.compile(r".*\.gguf"), "GGUF is llama.cpp's format, and the base is the model that it was converted from"),
    (re.compile(r"consolidated.*\.(pth|safetensors)"), "its author's own format, which has to be converted for `transformers` first"),
    (re.compile(r"(tf_model|model)\.h5|flax_model\.msgpack"), "weights of TensorFlow or Flax, which PEFT does not adapt"),
    (re.compile(r"(model|pytorch_model|diffusion_pytorch_model)-\d+-of-\d+\.(safetensors|bin)"), "a shard without the index"),
    (re.compile(r".*\.(safetensors|bin|ckpt|pt|pth)"), "not a name that `from_pretrained` looks for"),
)
"""in the order in which they explain a directory"""
_NO_MODEL = re.compile(r"(training_args|optimizer|scheduler|rng_state.*)\.(bin|pt|pth)")


def instead(names: Iterable[str]) -> str:
    """The most telling of ``names`` and what it is, as ``, only `x`: …``; empty when none explains anything."""
    present = sorted(name for name in names if "/" not in name and not _NO_MODEL.fullmatch(name))
    for pattern, what in _KINDS:
        if found := next((name for name in present if pattern.fullmatch(name)), None):
            return f", only `{found}`: {what}"
    return ""
