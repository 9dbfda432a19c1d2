"""Coverage-guided fuzzing of what `loradoctor check` reads: the safetensors header, the pickle walk, the config.

    pip install atheris && python fuzz/check.py {header,pickle,config} CORPUS -max_total_time=600

CORPUS is a directory that libFuzzer fills; it starts with the seeds this writes. A find is an input on which anything but a
`ReadError` comes out, a rule does not complete (LD002), or the check takes longer than `SECONDS`.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["loradoctor", "json", "pickletools", "zipfile"]):
    from loradoctor.checkpoint import adapter_config, archive, header, state_dict, weights  # noqa: F401
    from loradoctor.checkpoint.run import CheckOptions, check
    from loradoctor.registry import family

SECONDS = 10
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "bias": "none",
    "rank_pattern": {"q_proj": 2}, "modules_to_save": None, "layers_to_transform": [0], "init_lora_weights": True,
    "base_model_name_or_path": "org/base", "trainable_token_indices": [1, 2], "peft_version": "0.21.2",
}  # fmt: skip


def tensors() -> bytes:
    """A healthy adapter of one module."""
    names = {f"{MODULE}.lora_A.weight": [2, 4], f"{MODULE}.lora_B.weight": [4, 2]}
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for position, (name, shape) in enumerate(names.items()):
        table[name] = {"dtype": "F32", "shape": shape, "data_offsets": [32 * position, 32 * position + 32]}
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + struct.pack("<16f", *range(16))


class _Rebuilt:
    """Pickles as torch's tensors do, without torch."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __reduce__(self) -> tuple[object, ...]:
        from collections import OrderedDict

        return OrderedDict, ((("storage", self.key),),)


def pickled() -> list[bytes]:
    """Pickles of every protocol, plain and strange."""
    values: list[object] = [
        {"a": 1, "b": [(1, 2.5), {3}, b"x", None, True]},
        {"state_dict": {"w": _Rebuilt("0")}},
        [1 << 70, "é", frozenset("a")],
    ]
    return [pickle.dumps(value, protocol) for value in values for protocol in range(6)]


def archived(data: bytes) -> bytes:
    """A file of `torch.save` around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/data/0", bytes(64))
    return buffer.getvalue()


SEEDS = {
    "header": [tensors(), tensors()[:40], b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"],
    "pickle": pickled(),
    "config": [
        json.dumps(CONFIG).encode(),
        b"\xef\xbb\xbf{}",
        b'{"a":1,"a":2}',
        json.dumps({**CONFIG, "target_modules": "(a|b)*c"}).encode(),
    ],
}


def files(target: str, data: bytes) -> dict[str, bytes]:
    """The directory that one input makes."""
    config = json.dumps(CONFIG).encode()
    if target == "header":
        return {"adapter_model.safetensors": data, "adapter_config.json": config}
    if target == "pickle":
        return {"adapter_model.bin": archived(data), "adapter_config.json": config}
    return {"adapter_model.safetensors": tensors(), "adapter_config.json": data}


def main() -> None:
    """Fuzz one target until libFuzzer's own options end it."""
    target, corpus = sys.argv[1], Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[target]):
        (corpus / f"seed{number}").write_bytes(seed)
    family("checkpoint")
    place = Path(tempfile.mkdtemp())

    def one(data: bytes) -> None:
        for name, content in files(target, data).items():
            (place / name).write_bytes(content)
        begun = time.perf_counter()
        report = check(str(place), CheckOptions(base="none"))
        taken = time.perf_counter() - begun
        failed = [d.message for d in report.diagnostics if d.code == "LD002"]
        if failed or taken > SECONDS:
            raise RuntimeError(f"{failed} after {taken:.1f} s")
        for path in place.iterdir():
            path.unlink()

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
