"""Names and shapes that nobody trained: every rule keeps its feet."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loradoctor.checkpoint.methods import METHODS
from loradoctor.checkpoint.run import CheckOptions, check

PARTS = [
    "base_model", "model", "layers", "0", "7", "self_attn", "q_proj", "lora_A", "lora_B", "lora_E", "lora_embedding_A", "lora_embedding_B",
    "lora_magnitude_vector", "weight", "bias", "default", "base_layer", "modules_to_save", "original_module", "token_adapter",
    "trainable_tokens_delta", "ia3_l", "prompt_embeddings", "lm_head", "embed_tokens", "experts", "_orig_mod", "module", "", "*",
    "\x1b[2J", "é", "lora_a",
]  # fmt: skip
NAME = st.lists(st.sampled_from(PARTS), min_size=1, max_size=9).map(".".join)
SHAPE = st.lists(st.integers(0, 5), max_size=4)
TENSORS = st.dictionaries(NAME, st.tuples(SHAPE, st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3"])), max_size=8)
WIDTH = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "BOOL": 1, "F8_E4M3": 1}


def store(path: Path, tensors: dict[str, tuple[list[int], str]], fill: int) -> None:
    header, offset = {}, 0
    for name, (shape, dtype) in tensors.items():
        size = WIDTH[dtype]
        for n in shape:
            size *= n
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes([fill]) * offset)


@pytest.mark.parametrize("peft_type", ["LORA", "ADALORA", "IA3", "PREFIX_TUNING", "NOSUCH"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors=TENSORS, fill=st.sampled_from([0, 1, 255, 60]), task=st.sampled_from([None, "CAUSAL_LM", "SEQ_CLS"]))
def test_no_names_or_shapes_crash_a_rule(
    tmp_path: Path, peft_type: str, tensors: dict[str, tuple[list[int], str]], fill: int, task: str | None
) -> None:
    store(tmp_path / "adapter_model.safetensors", tensors, fill)
    config = {"peft_type": peft_type, "r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "task_type": task}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    report = check(str(tmp_path), CheckOptions(base="none"))
    assert [d.message for d in report.diagnostics if d.code == "LD002"] == []


def test_every_method_is_taken_apart_without_tensors(tmp_path: Path) -> None:
    for peft_type in METHODS:
        store(tmp_path / "adapter_model.safetensors", {}, 0)
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": peft_type}))
        codes = [d.code for d in check(str(tmp_path), CheckOptions(base="none")).diagnostics]
        assert "LD508" in codes
        assert "LD002" not in codes
