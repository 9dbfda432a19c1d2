"""LoRA files of diffusers: with the config in the header, with alpha in tensors, and as older versions wrote them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.converting import converted, drawn, loaded, peft, plans, put, refused, torch
from tests.checkpoint.test_convert_kohya import Denoiser, Encoder, base, run, same

nn = torch.nn
NAME = "pytorch_lora_weights.safetensors"


def adapted(model: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A model with random updates injected by PEFT, as diffusers does it, and the tensors that it saves."""
    config = peft.LoraConfig(target_modules=["to_q", "conv1", "q_proj"], init_lora_weights=False, **options)
    torch.manual_seed(2)
    made = peft.inject_adapter_in_model(config, copy.deepcopy(model)).double()
    return made, {k.replace(".default", ""): v.detach() for k, v in made.state_dict().items() if "lora_" in k}


def header(component: str, **fields: Any) -> dict[str, str]:
    return {"format": "pt", "lora_adapter_metadata": json.dumps({f"{component}.{k}": v for k, v in fields.items()})}


@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 10},
        {"r": 4, "lora_alpha": 10, "use_rslora": True},
        {"r": 2, "rank_pattern": {"conv1": 3}, "alpha_pattern": {"conv1": 7}},
    ],
)
def test_the_config_in_the_header_is_taken_over(tmp_path: Path, options: dict[str, Any]) -> None:
    model = Denoiser()
    made, state = adapted(model, **options)
    fields = {"lora_alpha": 8, **options, "target_modules": ["to_q", "conv1"]}
    source = put(tmp_path / "file", NAME, {f"unet.{k}": v for k, v in state.items()}, **header("unet", **fields))
    result = converted(source, tmp_path / "peft", base(tmp_path / "base", unet=model))[""]
    torch.testing.assert_close(run(loaded(model, result)), run(made), rtol=1e-9, atol=1e-9)
    assert (run(made) - run(model)).abs().max() > 1e-3


def test_dora_keeps_its_magnitudes(tmp_path: Path) -> None:
    model = Denoiser()
    made, state = adapted(model, r=4, lora_alpha=10, use_dora=True)
    named = {f"unet.{k.replace('vector.weight', 'vector')}": v for k, v in state.items()}
    source = put(tmp_path / "file", NAME, named, **header("unet", r=4, lora_alpha=10, use_dora=True, target_modules=["to_q", "conv1"]))
    result = converted(source, tmp_path / "peft")[""]
    torch.testing.assert_close(run(loaded(model, result)), run(made), rtol=1e-9, atol=1e-9)


def test_two_models_of_a_pipeline(tmp_path: Path) -> None:
    unet, encoder = Denoiser(), Encoder()
    (one, first), (two, second) = adapted(unet, r=4, lora_alpha=4), adapted(encoder, r=2, lora_alpha=2)
    tensors = {f"unet.{k}": v for k, v in first.items()} | {f"text_encoder.{k}": v for k, v in second.items()}
    result = converted(put(tmp_path / "file", NAME, tensors), tmp_path / "peft")
    torch.testing.assert_close(run(loaded(unet, result["unet"])), run(one), rtol=1e-9, atol=1e-9)
    given = torch.ones(2, 10, dtype=torch.float64)
    torch.testing.assert_close(run(loaded(encoder, result["text_encoder"]), given), run(two, given), rtol=1e-9, atol=1e-9)


def test_alpha_tensors_count(tmp_path: Path) -> None:
    model = Denoiser()
    stem = "down_blocks.0.attn1.to_q"
    down, up = drawn(4, 12), drawn(12, 4)
    tensors = {f"unet.{stem}.lora.down.weight": down, f"unet.{stem}.lora.up.weight": up, f"unet.{stem}.alpha": torch.tensor(6.0)}
    result = converted(put(tmp_path / "file", NAME, tensors), tmp_path / "peft")[""]
    same(model, result, {stem: 1.5 * up @ down})


def test_the_oldest_names(tmp_path: Path) -> None:
    """`unet.save_attn_procs` of diffusers before 0.22: processors of their own, no component, no alpha."""
    model = Denoiser()
    tensors, updates = {}, {}
    for block in range(2):
        for short, module in (("to_q", "to_q"), ("to_out", "to_out.0")):
            down, up = drawn(4, 12), drawn(12, 4)
            stem = f"down_blocks.{block}.attn1.processor.{short}_lora"
            tensors |= {f"{stem}.down.weight": down, f"{stem}.up.weight": up}
            updates[f"down_blocks.{block}.attn1.{module}"] = up @ down
    source = put(tmp_path / "file", NAME.replace("safetensors", "bin"), tensors)
    same(model, converted(source, tmp_path / "peft", base(tmp_path / "base", unet=model))[""], updates)
    (plan,) = plans(source).values()
    assert "no alpha" in plan.notes[0]


def test_text_encoders_of_older_versions(tmp_path: Path) -> None:
    model = Encoder()
    down, up = drawn(4, 10), drawn(10, 4)
    stem = "text_encoder.q_proj.lora_linear_layer"
    source = put(tmp_path / "file", NAME, {f"{stem}.down.weight": down, f"{stem}.up.weight": up})
    same(model, converted(source, tmp_path / "peft")[""], {"q_proj": up @ down}, torch.ones(2, 10, dtype=torch.float64))


@pytest.mark.parametrize("level", ["", "text_model."])
def test_clip_with_and_without_the_level_that_transformers_took_out(tmp_path: Path, level: str) -> None:
    model = Encoder()
    down, up = drawn(4, 10), drawn(10, 4)
    stem = f"text_encoder.{level}q_proj"
    source = put(tmp_path / "file", NAME, {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up})
    same(
        model,
        converted(source, tmp_path / "peft", base(tmp_path / "base", text_encoder=model))[""],
        {"q_proj": up @ down},
        torch.ones(2, 10).double(),
    )
    older = put(tmp_path / "older", "model.safetensors", {f"text_model.{k}": v for k, v in model.state_dict().items()})
    (plan,) = plans(source, older).values()
    assert plan.config["target_modules"] == ["text_model.q_proj"]


def test_a_rank_that_the_header_contradicts_is_refused(tmp_path: Path) -> None:
    _, state = adapted(Denoiser(), r=4, lora_alpha=4)
    tensors = {f"unet.{k}": v for k, v in state.items()}
    source = put(tmp_path / "file", NAME, tensors, **header("unet", r=8, lora_alpha=8, target_modules=["to_q", "conv1"]))
    assert "rank and alpha" in refused(source)


def test_a_tensor_of_no_known_name_is_refused(tmp_path: Path) -> None:
    _, state = adapted(Denoiser(), r=4, lora_alpha=4)
    tensors = {f"unet.{k}": v for k, v in state.items()} | {"unet.conv_in.diff": drawn(2, 2)}
    assert "no names of diffusers' LoRA" in refused(put(tmp_path / "file", NAME, tensors))


def test_a_file_that_diffusers_has_written(tmp_path: Path) -> None:
    """`save_lora_weights` and `load_lora_adapter` of diffusers on a small UNet: the same images."""
    diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
    sizes = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 4}
    blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(sample_size=8, in_channels=4, out_channels=4, **sizes, **blocks).eval()
    trained = copy.deepcopy(unet)
    config = peft.LoraConfig(r=4, lora_alpha=9, init_lora_weights=False, target_modules=["to_q", "to_out.0", "conv1", "proj_in"])
    trained.add_adapter(config)
    state = peft.get_peft_model_state_dict(trained)
    extra = {"unet_lora_adapter_metadata": {**trained.peft_config["default"].to_dict(), "target_modules": sorted(config.target_modules)}}
    diffusers.StableDiffusionPipeline.save_lora_weights(tmp_path / "file", unet_lora_layers=state, **extra)
    unet.save_pretrained(tmp_path / "base")
    result = converted(tmp_path / "file", tmp_path / "peft", tmp_path / "base")[""]
    noise, words = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 8)

    def image(model: Any) -> Any:
        with torch.no_grad():
            return model(sample=noise, timestep=3, encoder_hidden_states=words).sample

    assert (image(trained) - image(unet)).abs().max() > 1e-3
    torch.testing.assert_close(image(loaded(unet, result)), image(trained), rtol=1e-4, atol=1e-5)
