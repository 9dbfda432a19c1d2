"""Names, shapes and configs that no tool writes: a conversion is refused with a reason, never a crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.convert import convert
from loradoctor.checkpoint.tensor import BITS, TensorInfo
from loradoctor.repair import arrays

STEMS = (
    "lora_unet_down_blocks_0_attn1_to_q",
    "lora_te_x",
    "lora_te2_",
    "lycoris_a",
    "diffusion_model.a.b",
    "model.layers.0.self_attn.q_proj",
    "model.embed_tokens",
    "layers.0.attn.q_proj",
    "layers.0.attn.k_proj",
    "unet.mid_block.to_q",
    "text_encoder.a",
    "mid_block.attn1.processor.to_q_lora",
    "blk.0.attn_q.weight",
    "token_embd.weight",
)
LEAVES = (
    "lora_down.weight lora_up.weight lora_mid.weight alpha dora_scale hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2 lokr_w1 lokr_w2 "
    "lokr_w1_a lokr_w1_b lokr_w2_a lokr_w2_b lokr_t2 lora_a lora_b m lora_a.weight lora_b.weight magnitude lora_A.weight lora_B.weight "
    "lora.down.weight lora.up.weight down.weight up.weight lora_magnitude_vector lora_B.bias diff scalar weight"
).split()

names = st.one_of(st.builds("{}.{}".format, st.sampled_from(STEMS), st.sampled_from(LEAVES)), st.text(max_size=12))
tame = st.sampled_from([(4, 8), (8, 4), (4, 4), (8, 8), (4,), ()])
shapes = st.lists(st.sampled_from([0, 1, 2, 4, 8, 12, 1 << 40]), max_size=5).map(tuple)
numbers = st.one_of(st.none(), st.booleans(), st.integers(-2, 1 << 70), st.floats(), st.text(max_size=3), st.lists(st.none(), max_size=2))
configs = st.dictionaries(
    st.sampled_from(
        ["peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "lora_parameters", "fine_tune_type", "model"]
    ),
    st.one_of(
        numbers, st.just("LORA"), st.dictionaries(st.sampled_from(["scale", "rank", "(", "a"]), numbers), st.lists(st.just("q_proj"))
    ),
)


def tensors(found: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, TensorInfo]:
    result, position = {}, 0
    for name, (dtype, shape) in found.items():
        info = TensorInfo(dtype, shape, position, position)
        result[name] = TensorInfo(dtype, shape, position, position + info.nbytes)
        position += info.nbytes
    return result


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    found=st.one_of(
        st.dictionaries(names, st.tuples(st.sampled_from(sorted(BITS)), shapes), max_size=8),
        st.sampled_from(STEMS).flatmap(
            lambda stem: st.dictionaries(
                st.sampled_from([f"{stem}.{leaf}" for leaf in LEAVES]), st.tuples(st.just("F32"), tame), max_size=5
            )
        ),
    ),
    config=st.one_of(st.none(), configs),
    base=configs.map(lambda c: {**c, "model_type": "llama", "num_attention_heads": c.get("r"), "hidden_size": c.get("lora_alpha")}),
)
def test_nothing_crashes(tmp_path: Path, found: dict[str, Any], config: Any, base: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(base))
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(bytes(64))
    parsed = None if config is None else AdapterConfig(tmp_path / "adapter_config.json", config, "")
    checkpoint = Checkpoint("a", tmp_path, "adapter", parsed, weights, tensors(found))
    for plan in (*convert(checkpoint).values(), *convert(checkpoint, tmp_path).values()):
        if not plan.refusals:
            for step in plan.tensors:
                arrays.result_of(plan, step)


@pytest.mark.parametrize("name", ["model", "unet"])
def test_a_base_that_cannot_be_read_is_as_if_it_said_nothing(tmp_path: Path, name: str) -> None:
    from loradoctor.checkpoint.convert.base_model import read

    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{" * 10_000)
    (tmp_path / name / "model.safetensors").write_bytes(b"\xff" * 100)
    (found,) = read(tmp_path / name).values()
    assert (dict(found.config), dict(found.shapes)) == ({}, {})
