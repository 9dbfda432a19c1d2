"""Which base the tensors were made for, from their shapes alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from loradoctor.checkpoint.checkpoint import Checkpoint, read
from loradoctor.checkpoint.known_bases import Sizes, conflict, fitting, sizes, table
from loradoctor.checkpoint.run import CheckOptions, check
from loradoctor.diagnostic import Diagnostic

TINYLLAMA = {"q_proj": (2048, 2048), "k_proj": (2048, 256), "v_proj": (2048, 256)}
"""module → in, out of TinyLlama-1.1B, which has 22 layers"""


def adapter(to: Path, layers: Iterable[int] = range(22), top: str = "model", **config: object) -> Path:
    """An adapter of rank 1 whose tensors have the shapes of TinyLlama."""
    to.mkdir()
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in layers:
        for module, (read_, written) in TINYLLAMA.items():
            stem = f"base_model.model.{top}.layers.{layer}.self_attn.{module}"
            tensors[f"{stem}.lora_A.weight"] = rng.normal(size=(1, read_)).astype("f4")
            tensors[f"{stem}.lora_B.weight"] = rng.normal(size=(written, 1)).astype("f4")
    save_file(tensors, to / "adapter_model.safetensors")
    names = sorted(TINYLLAMA)
    fields = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1, "lora_alpha": 1, "target_modules": names, "base_model_name_or_path": "a/b"}
    (to / "adapter_config.json").write_text(json.dumps({**fields, **config}))
    return to


def opened(path: Path) -> Checkpoint:
    return read(str(path), path)


def found(path: Path, code: str) -> list[Diagnostic]:
    return [d for d in check(str(path), CheckOptions(base="none")).diagnostics if d.code == code]


def test_every_entry_says_where_it_was_read_and_what_it_is() -> None:
    raw = json.loads((Path(__file__).parents[2] / "loradoctor" / "checkpoint" / "known_bases.json").read_text())
    assert len(raw["bases"]) > 150
    for name, entry in raw["bases"].items():
        assert entry["source"], name
        assert entry["type"] in raw["modules"], name
        assert {"hidden", "layers"} <= set(entry), name
        assert all(isinstance(v, int) and v > 0 for k, v in entry.items() if k not in ("source", "type")), name


def test_sizes_are_read_off_the_shapes(tmp_path: Path) -> None:
    assert sizes(opened(adapter(tmp_path / "a"))) == Sizes(hidden=2048, layers=22, query=2048, kv=256)


def test_the_base_is_recognised(tmp_path: Path) -> None:
    checkpoint = opened(adapter(tmp_path / "a"))
    names = fitting(sizes(checkpoint), checkpoint.by_module)
    assert "TinyLlama/TinyLlama-1.1B-Chat-v1.0" in names
    assert all(table()[name]["hidden"] == 2048 for name in names)


def test_a_part_of_the_layers_says_nothing_about_the_depth(tmp_path: Path) -> None:
    assert sizes(opened(adapter(tmp_path / "a", layers=range(4, 22)))).layers is None
    assert sizes(opened(adapter(tmp_path / "b", layers=range(4), layers_to_transform=[0, 1, 2, 3]))).layers is None


def test_an_image_encoder_is_not_the_language_model(tmp_path: Path) -> None:
    assert sizes(opened(adapter(tmp_path / "a", top="vision_tower.encoder"))) == Sizes()


def test_other_module_names_are_another_architecture() -> None:
    shown = Sizes(hidden=2048, layers=22, query=2048, kv=256)
    assert fitting(shown, ["model.layers.0.self_attn.q_proj"])
    assert not fitting(shown, ["gpt_neox.layers.0.attention.query_key_value"])


def test_two_sizes_are_too_few() -> None:
    assert fitting(Sizes(hidden=2048, layers=22), ["model.layers.0.self_attn.q_proj"]) == ()


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (Sizes(hidden=4096), "hidden size 2048"),
        (Sizes(hidden=2048, kv=2048), "kv width 256"),
        (Sizes(hidden=2048, layers=32), "22 layers"),
        (Sizes(hidden=2048, layers=4), None),
        (Sizes(vocabulary=32003), None),
    ],
)
def test_what_a_known_base_cannot_have(shown: Sizes, words: str | None) -> None:
    other = conflict(shown, "tinyllama/tinyllama-1.1b-chat-v1.0")
    assert (other[0] if other else None) == words


def test_a_base_named_in_the_config_that_has_other_sizes(tmp_path: Path) -> None:
    (diagnostic,) = found(adapter(tmp_path / "a", base_model_name_or_path="mistralai/Mistral-7B-v0.1"), "LD615")
    assert diagnostic.severity.value == "warning"
    assert (diagnostic.data["cause"], diagnostic.data["shape"]) == ("named-base", {"hidden": 2048, "layers": 22, "query": 2048, "kv": 256})
    assert "hidden size 4096" in diagnostic.message
    assert "`TinyLlama/TinyLlama-1.1B-Chat-v1.0`" in diagnostic.help


def test_the_right_base_and_an_unknown_one_are_silent(tmp_path: Path) -> None:
    assert not found(adapter(tmp_path / "a", base_model_name_or_path="TinyLlama/TinyLlama-1.1B-Chat-v1.0"), "LD615")
    assert not found(adapter(tmp_path / "b", base_model_name_or_path="someone/else"), "LD615")


def test_a_base_that_is_gone_is_described(tmp_path: Path) -> None:
    (diagnostic,) = found(adapter(tmp_path / "a", base_model_name_or_path="/home/alice/models/base"), "LD525")
    assert diagnostic.data == {"cause": "path-gone", "user": "alice"}
    assert "user name `alice`" in diagnostic.help
    assert "hidden size 2048, 22 layers, kv width 256" in diagnostic.help


@pytest.mark.parametrize("base", ["/home/ubuntu/models/base", "/root/models/base", "/kaggle/input/base/x", "D:\\models\\base"])
def test_an_account_of_a_machine_names_nobody(tmp_path: Path, base: str) -> None:
    (diagnostic,) = found(adapter(tmp_path / "a", base_model_name_or_path=base), "LD525")
    assert "user" not in diagnostic.data


@pytest.mark.parametrize(
    ("base", "causes"),
    [
        ("unsloth/llama-3-8b-bnb-4bit", ["quantized"]),
        ("TheBloke/Llama-2-7B-GPTQ", ["quantized"]),
        ("someone/model-awq", ["quantized"]),
        ("someone/model-merged", ["merged"]),
        ("someone/model-merged-4bit", ["quantized", "merged"]),
        ("someone/emerged-bits-4bits", ["quantized"]),
        ("google/gemma-2b-it", []),
    ],
)
def test_what_the_name_of_the_base_tells(tmp_path: Path, base: str, causes: list[str]) -> None:
    diagnostics = found(adapter(tmp_path / "a", base_model_name_or_path=base), "LD525")
    assert [d.data["cause"] for d in diagnostics] == causes
    assert all(d.severity.value == "info" for d in diagnostics)


def test_a_base_that_is_an_adapter(tmp_path: Path) -> None:
    inner = adapter(tmp_path / "inner")
    (diagnostic,) = found(adapter(tmp_path / "a", base_model_name_or_path=str(inner)), "LD525")
    assert (diagnostic.severity.value, diagnostic.data["cause"]) == ("warning", "adapter")


@pytest.mark.parametrize(
    ("base", "revision", "pinned"),
    [("a/b", None, False), ("a/b", "main", False), ("a/b", "0011cd4442915c84", True), ("/gone", None, None), (None, None, None)],
)
def test_whether_the_base_is_pinned(tmp_path: Path, base: str | None, revision: str | None, pinned: bool | None) -> None:
    path = adapter(tmp_path / "a", base_model_name_or_path=base, revision=revision)
    report = check(str(path), CheckOptions(base="none"))
    assert report.subjects[0].facts["pinned"] is pinned
