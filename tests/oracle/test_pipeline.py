"""Bases that are diffusion pipelines; what needs diffusers is skipped without it."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
import transformers
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from tests.oracle import zoo

pytestmark = pytest.mark.filterwarnings("ignore")

HAS_DIFFUSERS = importlib.util.find_spec("diffusers") is not None
needs_diffusers = pytest.mark.skipif(not HAS_DIFFUSERS, reason="diffusers is not installed")
UNET = {
    "block_out_channels": [32, 64], "layers_per_block": 1, "sample_size": 32, "in_channels": 4, "out_channels": 4, "norm_num_groups": 16,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 32, "attention_head_dim": 8,
}  # fmt: skip
PARTS = {"unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["transformers", "CLIPTextModel"], "vae": ["diffusers", "AutoencoderKL"]}


def text_encoder():
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=2, vocab_size=99, bos_token_id=0, eos_token_id=2
    )
    return transformers.CLIPTextModel(config)


@pytest.fixture
def pipeline(tmp_path):
    base = tmp_path / "pipeline"
    text_encoder().save_pretrained(base / "text_encoder")
    (base / "unet").mkdir()
    (base / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel", **UNET}))
    (base / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **PARTS}))
    return base


@pytest.fixture
def unet_adapter(pipeline, tmp_path):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return zoo.adapter(tmp_path / "a", UNet2DConditionModel(**UNET), LoraConfig(r=4, target_modules=["to_q", "to_v"]), base=pipeline)


def rows(result):
    return {row["loader"]: (row["status"], row["loaded"], row["of"]) for row in result.report.subjects[0].facts["loaders"]}


def test_the_part_that_the_adapter_is_for_is_built(examine, pipeline, tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    result = examine(zoo.adapter(tmp_path / "a", text_encoder(), config, base=pipeline))
    assert "CLIPTextModel" in result.check("loads").reason
    assert rows(result)["PeftModel.from_pretrained"] == ("full", 8, 8)
    assert rows(result)["diffusers load_lora_weights"][0] == ("none" if HAS_DIFFUSERS else "not-run")
    assert result.check("merge-equivalence").status == "passed"


@pytest.mark.skipif(HAS_DIFFUSERS, reason="diffusers is installed")
def test_a_part_of_a_missing_library_is_not_judged(examine, pipeline, good):
    # Of all parts only the text encoder can be built here, and the adapter does not fit that one.
    result = examine(good, base=str(pipeline))
    assert result.codes == []
    assert result.check("loads").status == "not-run"
    assert "`diffusers` is not installed" in result.check("loads").reason


def test_classes_of_other_libraries_are_never_imported(examine, pipeline, good):
    (pipeline / "model_index.json").write_text(json.dumps({"_class_name": "X", "unet": ["os", "system"]}))
    result = examine(good, base=str(pipeline))
    assert result.check("loads").status == "not-run"
    assert "which is never imported" in result.check("loads").reason


@needs_diffusers
def test_diffusers_loads_nothing_of_a_peft_directory(examine, unet_adapter):
    result = examine(unet_adapter)
    assert result.codes == []
    assert "UNet2DConditionModel" in result.check("loads").reason
    assert rows(result)["PeftModel.from_pretrained"] == ("full", 32, 32)
    assert rows(result)["transformers load_adapter"][0] == "not-run"
    assert rows(result)["diffusers load_lora_weights"] == ("none", 0, 32)


@needs_diffusers
def test_diffusers_loads_keys_that_name_the_part(examine, unet_adapter):
    path = unet_adapter / "adapter_model.safetensors"
    save_file({k.replace("base_model.model.", "unet."): v.clone() for k, v in load_file(path).items()}, path)
    found = rows(examine(unet_adapter))
    assert found["PeftModel.from_pretrained"][0] == "none"
    assert found["diffusers load_lora_weights"] == ("full", 32, 32)


@needs_diffusers
@pytest.mark.parametrize("options", [{}, {"variant": "fp16"}, {"max_shard_size": "200KB"}, {"max_shard_size": "200KB", "variant": "bf16"}], ids=str)
def test_the_weights_of_a_part_are_merged_into(examine, pipeline, unet_adapter, options):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    UNet2DConditionModel(**UNET).save_pretrained(pipeline / "unet", **options)
    assert examine(unet_adapter).check("merge-equivalence").status == "passed"
