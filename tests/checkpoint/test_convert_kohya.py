"""Single files of kohya's scripts and LyCORIS: names without dots, alpha in tensors, one adapter per model of the pipeline."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest

from loradoctor.checkpoint.convert.flat import renumbered
from tests.checkpoint.converting import converted, drawn, loaded, plans, put, refused, torch, with_updates

nn = torch.nn


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Any) -> Any:
        return self.to_out[0](self.to_q(x.movedim(1, -1))).movedim(-1, 1)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.attn1 = Attention(width)

    def forward(self, x: Any) -> Any:
        return self.attn1(self.proj_in(self.conv1(x)))


class Denoiser(nn.Module):
    """Convolutions with and without a kernel, linear layers, numbered blocks."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down_blocks = nn.ModuleList([Block(width), Block(width)])
        self.double()

    def forward(self, x: Any) -> Any:
        for block in self.down_blocks:
            x = block(x)
        return x


class Encoder(nn.Module):
    def __init__(self, width: int = 10) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.double()

    def forward(self, x: Any) -> Any:
        return self.out_proj(self.q_proj(x))


IMAGE = torch.linspace(-1, 1, 2 * 12 * 5 * 5, dtype=torch.float64).reshape(2, 12, 5, 5)


def run(model: Any, given: Any = IMAGE) -> Any:
    with torch.no_grad():
        return model(given)


def same(model: Any, adapter: Path, updates: dict[str, Any], given: Any = IMAGE) -> None:
    plain, wanted = run(model, given), run(with_updates(model, updates), given)
    assert (wanted - plain).abs().max() > 1e-3
    torch.testing.assert_close(run(loaded(model, adapter), given), wanted, rtol=1e-9, atol=1e-9)


def base(to: Path, **models: Any) -> Path:
    """One model, or a pipeline of several."""
    for name, model in models.items():
        place = to if len(models) == 1 else to / name
        put(place, "model.safetensors" if name.startswith("text") else "diffusion_pytorch_model.safetensors", model.state_dict())
    if len(models) > 1:
        (to / "model_index.json").write_text("{}")
    return to


def lora(model: Any, prefix: str, *, alpha: float | None = 2.0, ranks: tuple[int, ...] = (4, 3)) -> tuple[dict[str, Any], dict[str, Any]]:
    """kohya's tensors for every layer, and what they add to the weights (networks/lora.py, LoRAModule.forward)."""
    tensors: dict[str, Any] = {}
    updates: dict[str, Any] = {}
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for number, (name, layer) in enumerate(layers):
        rank = ranks[number % len(ranks)]
        weight = layer.weight
        up = drawn(weight.shape[0], rank, *(1 for _ in weight.shape[2:]))
        down = drawn(rank, *weight.shape[1:])
        stem = f"{prefix}{name.replace('.', '_')}"
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{stem}.alpha"] = torch.tensor(alpha + number, dtype=torch.float16)
        factor = 1.0 if alpha is None else (alpha + number) / rank
        updates[name] = factor * up.flatten(1) @ down.flatten(1)
    return tensors, updates


def test_linear_and_convolution_are_the_same_function(tmp_path: Path) -> None:
    model = Denoiser()
    tensors, updates = lora(model, "lora_unet_")
    source = put(tmp_path / "file", "style.safetensors", tensors)
    result = converted(source / "style.safetensors", tmp_path / "peft", base(tmp_path / "base", unet=model))[""]
    same(model, result, updates)


def test_without_alpha_the_factor_is_one(tmp_path: Path) -> None:
    model = Denoiser()
    tensors, updates = lora(model, "lora_unet_", alpha=None)
    source = put(tmp_path / "file", "style.safetensors", tensors)
    where = base(tmp_path / "base", unet=model)
    same(model, converted(source, tmp_path / "peft", where)[""], updates)
    (plan,) = plans(source, where).values()
    assert "no alpha" in plan.notes[0]


def test_a_kernel_of_one_may_be_stored_as_a_matrix(tmp_path: Path) -> None:
    model = Denoiser()
    tensors, updates = lora(model, "lora_unet_")
    flat = {k: v.reshape(v.shape[:2]) if v.ndim == 4 and "proj_in" in k else v for k, v in tensors.items()}
    source = put(tmp_path / "file", "style.safetensors", flat)
    same(model, converted(source, tmp_path / "peft", base(tmp_path / "base", unet=model))[""], updates)


def test_clip_without_the_level_that_transformers_took_out(tmp_path: Path) -> None:
    model = Encoder()
    tensors, updates = lora(model, "lora_te_text_model_")
    source = put(tmp_path / "file", "style.safetensors", tensors)
    result = converted(source, tmp_path / "peft", base(tmp_path / "base", text_encoder=model))[""]
    same(model, result, updates, torch.ones(2, 10, dtype=torch.float64))


def test_every_model_of_the_pipeline_gets_its_adapter(tmp_path: Path) -> None:
    unet, encoder = Denoiser(), Encoder()
    (first, one), (second, two) = lora(unet, "lora_unet_"), lora(encoder, "lora_te1_")
    source = put(tmp_path / "file", "style.safetensors", first | second)
    where = base(tmp_path / "base", unet=unet, text_encoder=encoder, text_encoder_2=Encoder())
    result = converted(source, tmp_path / "peft", where)
    assert result.keys() == {"unet", "text_encoder"}
    same(unet, result["unet"], one)
    same(encoder, result["text_encoder"], two, torch.ones(2, 10, dtype=torch.float64))


def test_names_of_comfyui_have_their_dots(tmp_path: Path) -> None:
    model = Denoiser()
    tensors, updates = lora(model, "lora_unet_", alpha=None)
    named = dict(zip((f"{n}.{half}.weight" for n in updates for half in ("lora_A", "lora_B")), tensors.values(), strict=True))
    source = put(tmp_path / "file", "style.safetensors", {f"diffusion_model.{k}": v for k, v in named.items()})
    same(model, converted(source, tmp_path / "peft", base(tmp_path / "base", transformer=model))[""], updates)


def test_flux_under_its_original_names(tmp_path: Path) -> None:
    model = nn.ModuleDict({"double_blocks": nn.ModuleList([nn.ModuleDict({"img_attn": nn.ModuleDict({"qkv": nn.Linear(8, 24)})})])})
    tensors, _ = lora(model.double(), "lora_unet_")
    source = put(tmp_path / "file", "style.safetensors", tensors)
    weights = {f"model.diffusion_model.{k}": v for k, v in model.state_dict().items()}
    whole = put(tmp_path / "base", "flux1-dev.safetensors", weights) / "flux1-dev.safetensors"
    (plan,) = plans(source, whole).values()
    assert not plan.refusals
    assert plan.config["target_modules"] == ["double_blocks.0.img_attn.qkv"]


class Joint(nn.Module):
    """A block of Flux as diffusers has it: what was one stacked layer is several."""

    def __init__(self, stacked: dict[str, tuple[int, ...]], width: int) -> None:
        super().__init__()
        torch.manual_seed(4)
        for name, rows in stacked.items():
            self.add_module(name, nn.Linear(width, rows[0]))
        self.double()

    def forward(self, x: Any) -> Any:
        return torch.cat([layer(x) for layer in self.children()], -1)


def flux() -> Any:
    model = nn.Module()
    model.transformer_blocks = nn.ModuleList([nn.Module()])
    model.transformer_blocks[0].attn = Joint({"to_q": (8,), "to_k": (8,), "to_v": (8,)}, 8)
    model.single_transformer_blocks = nn.ModuleList([nn.Module()])
    model.single_transformer_blocks[0].attn = Joint({"to_q": (8,), "to_k": (8,), "to_v": (8,)}, 8)
    model.single_transformer_blocks[0].proj_mlp = nn.Linear(8, 32).double()
    model.forward = None
    return model


def test_flux_onto_diffusers_modules_is_cut_by_rows(tmp_path: Path) -> None:
    model = flux()
    tensors, updates = {}, {}
    stacks = {
        "double_blocks_0_img_attn_qkv": [f"transformer_blocks.0.attn.to_{x}" for x in "qkv"],
        "single_blocks_0_linear1": [*(f"single_transformer_blocks.0.attn.to_{x}" for x in "qkv"), "single_transformer_blocks.0.proj_mlp"],
    }
    for number, (name, modules) in enumerate(stacks.items(), 2):
        rows = [model.get_submodule(m).weight.shape[0] for m in modules]
        down, up = drawn(4, 8), drawn(sum(rows), 4)
        stem = f"lora_unet_{name}"
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(float(number))}
        updates |= dict(zip(modules, (number / 4 * up @ down).split(rows), strict=True))
    source = put(tmp_path / "file", "style.safetensors", tensors)
    result = converted(source, tmp_path / "peft", base(tmp_path / "base", transformer=model, text_encoder=Encoder()))[""]
    merged = loaded(model, result).merge_and_unload()
    for module, update in updates.items():
        torch.testing.assert_close(merged.get_submodule(module).weight, model.get_submodule(module).weight + update)
    utilities = pytest.importorskip("diffusers.loaders.lora_conversion_utils", exc_type=ImportError)
    state = {k: v for k, v in tensors.items() if "double" in k}
    theirs = utilities._convert_kohya_flux_lora_to_diffusers(dict(state))
    for module in stacks["double_blocks_0_img_attn_qkv"]:
        product = theirs[f"transformer.{module}.lora_B.weight"] @ theirs[f"transformer.{module}.lora_A.weight"]
        torch.testing.assert_close(product, updates[module])


def test_names_that_may_be_cut_in_two_ways_are_refused(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.ModuleDict({"b_c": nn.Linear(4, 4)}), "a_b": nn.ModuleDict({"c": nn.Linear(4, 4)})})
    tensors = {"lora_unet_a_b_c.lora_down.weight": drawn(2, 4), "lora_unet_a_b_c.lora_up.weight": drawn(4, 2)}
    source = put(tmp_path / "file", "style.safetensors", tensors)
    assert "do not single out modules" in refused(source, base(tmp_path / "base", unet=model))


def test_without_a_base_the_dots_are_not_guessed(tmp_path: Path) -> None:
    source = put(tmp_path / "file", "style.safetensors", lora(Denoiser(), "lora_unet_")[0])
    assert "lost the dots" in refused(source)


def test_another_width_than_the_base_s_is_refused(tmp_path: Path) -> None:
    source = put(tmp_path / "file", "style.safetensors", lora(Denoiser(16), "lora_unet_")[0])
    assert "fit no module" in refused(source, base(tmp_path / "base", unet=Denoiser()))


@pytest.mark.parametrize(
    ("leaf", "why"), [("lora_mid.weight", "Tucker"), ("dora_scale", "epsilon"), ("diff", "full difference"), ("diff_b", "biases")]
)
def test_what_peft_computes_otherwise_is_refused(tmp_path: Path, leaf: str, why: str) -> None:
    model = Denoiser()
    tensors, _ = lora(model, "lora_unet_")
    tensors[f"lora_unet_down_blocks_0_conv1.{leaf}"] = drawn(4, 4, 3, 3)
    source = put(tmp_path / "file", "style.safetensors", tensors)
    assert why in refused(source, base(tmp_path / "base", unet=model))


def test_a_peft_config_beside_peft_s_file_name_says_alpha(tmp_path: Path) -> None:
    """Somebody renamed the tensors and left the config: its alpha is the only one."""
    model = Denoiser()
    tensors, updates = lora(model, "lora_unet_", alpha=None, ranks=(4,))
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["to_q", "to_out.0", "conv1", "proj_in"], "revision": "v2"}
    source = put(tmp_path / "file", "adapter_model.safetensors", tensors, config)
    where = base(tmp_path / "base", unet=model)
    result = converted(source, tmp_path / "peft", where)[""]
    same(model, result, {m: 4 * u for m, u in updates.items()})
    (plan,) = plans(source, where).values()
    assert plan.config["revision"] == "v2"
    assert plan.config["target_modules"] == config["target_modules"]


def test_two_alphas_are_a_contradiction(tmp_path: Path) -> None:
    model = Denoiser()
    tensors, _ = lora(model, "lora_unet_", ranks=(4,))
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["to_q"]}
    source = put(tmp_path / "file", "adapter_model.safetensors", tensors, config)
    assert "the config beside it says 16" in refused(source, base(tmp_path / "base", unet=model))


@pytest.mark.parametrize(
    ("original", "diffusers"),
    [
        ("input_blocks_4_1_transformer_blocks_0_attn1_to_q", "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"),
        ("input_blocks_3_0_op", "down_blocks_0_downsamplers_0_conv"),
        ("input_blocks_8_0_in_layers_2", "down_blocks_2_resnets_1_conv1"),
        ("middle_block_1_proj_in", "mid_block_attentions_0_proj_in"),
        ("middle_block_2_out_layers_3", "mid_block_resnets_1_conv2"),
        ("output_blocks_5_2_conv", "up_blocks_1_upsamplers_0_conv"),
        ("output_blocks_0_0_skip_connection", "up_blocks_0_resnets_0_conv_shortcut"),
        ("time_embed_2", "time_embedding_linear_2"),
        ("down_blocks_0_attentions_0_proj_in", "down_blocks_0_attentions_0_proj_in"),
        ("input_blocks_4_7_to_q", "input_blocks_4_7_to_q"),
    ],
)
def test_sdxl_s_original_names(original: str, diffusers: str) -> None:
    assert renumbered(original) == diffusers


# -- LyCORIS --------------------------------------------------------------------------------------------------------------------------


def trained(algorithm: str, model: Any, to: Path, **options: Any) -> tuple[Path, Any]:
    """A file written by LyCORIS itself, and the model it has changed."""
    import copy

    lycoris = pytest.importorskip("lycoris", exc_type=ImportError)
    changed = copy.deepcopy(model)
    lycoris.LycorisNetwork.apply_preset({"target_module": ["Denoiser"], "target_name": []})
    torch.manual_seed(3)
    network = lycoris.create_lycoris(changed, 1.0, linear_dim=2, linear_alpha=3.0, conv_dim=2, conv_alpha=3.0, algo=algorithm, **options)
    network.apply_to()
    network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64) / 2)
    to.mkdir(parents=True)
    network.save_weights(str(to / "style.safetensors"), torch.float64, {})
    return to, changed


@pytest.mark.parametrize("options", [{}, {"use_tucker": True}])
@pytest.mark.parametrize("algorithm", ["loha", "lokr", "locon"])
def test_as_lycoris_computes(tmp_path: Path, algorithm: str, options: dict[str, Any]) -> None:
    model = Denoiser()
    source, changed = trained(algorithm, model, tmp_path / "file", **options)
    where = base(tmp_path / "base", unet=model)
    if algorithm == "locon" and options:
        assert "Tucker" in refused(source, where)
        return
    result = converted(source, tmp_path / "peft", where)[""]
    plain, wanted = run(model), run(changed)
    assert (wanted - plain).abs().max() > 1e-3
    torch.testing.assert_close(run(loaded(model, result)), wanted, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("options", [{"factor": 2}, {"factor": 3, "decompose_both": True}, {"full_matrix": True}, {"rs_lora": True}])
def test_lokr_in_every_cut(tmp_path: Path, options: dict[str, Any]) -> None:
    model = Denoiser(24)
    source, changed = trained("lokr", model, tmp_path / "file", **options)
    result = converted(source, tmp_path / "peft", base(tmp_path / "base", unet=model))[""]
    image = torch.linspace(-1, 1, 24 * 9, dtype=torch.float64).reshape(1, 24, 3, 3)
    torch.testing.assert_close(run(loaded(model, result), image), run(changed, image), rtol=1e-7, atol=1e-7)


def loha(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    tensors: dict[str, Any] = {}
    updates: dict[str, Any] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            first, second, third, fourth = drawn(12, 2), drawn(2, 12), drawn(12, 2), drawn(2, 12)
            stem = f"lora_unet_{name.replace('.', '_')}"
            tensors |= {f"{stem}.hada_w1_a": first, f"{stem}.hada_w1_b": second, f"{stem}.hada_w2_a": third, f"{stem}.hada_w2_b": fourth}
            tensors[f"{stem}.alpha"] = torch.tensor(5.0)
            updates[name] = 2.5 * (first @ second) * (third @ fourth)
    return tensors, updates


def test_loha_is_the_same_function(tmp_path: Path) -> None:
    model = Denoiser()
    tensors, updates = loha(model)
    source = put(tmp_path / "file", "style.safetensors", tensors)
    result = converted(source, tmp_path / "peft", base(tmp_path / "base", unet=model))[""]
    assert json.loads((result / "adapter_config.json").read_text())["peft_type"] == "LOHA"
    plain, wanted = run(model), run(with_updates(model, updates))
    assert (wanted - plain).abs().max() > 1e-3
    torch.testing.assert_close(run(loaded(model, result)), wanted, rtol=1e-6, atol=1e-6)


def test_ia3_of_lycoris_is_refused(tmp_path: Path) -> None:
    tensors = {}
    for number in range(3):
        stem = f"lora_unet_down_blocks_{number}_attn1_to_q"
        tensors |= {f"{stem}.weight": drawn(1, 12), f"{stem}.on_input": torch.tensor(0)}
    source = put(tmp_path / "file", "style.safetensors", tensors)
    assert "(IA)³" in refused(source / "style.safetensors", base(tmp_path / "base", unet=Denoiser()))


def original_names() -> list[str]:
    """Modules of SDXL's UNet under the names of the original code, as kohya's scripts write them."""
    inner = [
        "proj_in",
        "proj_out",
        *(f"transformer_blocks_1_{m}" for m in ("attn1_to_q", "attn1_to_out_0", "attn2_to_k", "ff_net_0_proj", "ff_net_2")),
    ]
    resnet = ["in_layers_2", "out_layers_3", "emb_layers_1"]
    names = [f"{'input' if i < 9 else 'output'}_blocks_{i % 9}" for i in range(18)]
    found = [f"{n}_0_{m}" for n in names if n not in ("input_blocks_0", "input_blocks_3", "input_blocks_6") for m in resnet]
    found += [f"input_blocks_{i}_1_{m}" for i in (4, 5, 7, 8) for m in inner]
    found += [f"output_blocks_{i}_1_{m}" for i in range(6) for m in inner]
    found += [f"middle_block_{i}_{m}" for i in (0, 2) for m in resnet] + [f"middle_block_1_{m}" for m in inner]
    return [*found, "input_blocks_3_0_op", "input_blocks_6_0_op", "output_blocks_2_2_conv", "output_blocks_5_2_conv"]


def test_sdxl_s_names_are_those_of_diffusers_itself() -> None:
    utilities = pytest.importorskip("diffusers.loaders.lora_conversion_utils", exc_type=ImportError)
    state = {f"lora_unet_{name}.lora_down.weight": name for name in original_names()}
    moved = utilities._maybe_map_sgm_blocks_to_diffusers(state, argparse.Namespace(layers_per_block=2))
    assert len(moved) == len(original_names())
    for key, name in moved.items():
        theirs = utilities._convert_unet_lora_key(key).replace(".processor", "")
        theirs = re.sub(r"\.to_(\w+)_lora\.", lambda m: f".to_{'out.0' if m[1] == 'out' else m[1]}.lora.", theirs).replace(
            ".lora.down.weight", ""
        )
        assert renumbered(name) == theirs.replace(".lora_down.weight", "").replace(".", "_"), name


def test_as_diffusers_loads_the_file(tmp_path: Path) -> None:
    """A small UNet with the file given to `load_lora_weights`' own functions, and with its conversion given to PEFT."""
    diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
    import copy

    sizes = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 4}
    blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(sample_size=8, in_channels=4, out_channels=4, **sizes, **blocks).eval()
    unet.save_pretrained(tmp_path / "base")
    tensors: dict[str, Any] = {}
    for name, layer in unet.named_modules():
        if not isinstance(layer, (nn.Linear, nn.Conv2d)) or not ("attentions" in name or "conv1" in name):
            continue
        weight, stem = layer.weight, f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{stem}.lora_down.weight"] = torch.randn(3, *weight.shape[1:]) / 4
        tensors[f"{stem}.lora_up.weight"] = torch.randn(weight.shape[0], 3, *(1 for _ in weight.shape[2:])) / 4
        tensors[f"{stem}.alpha"] = torch.tensor(1.5)
    source = put(tmp_path / "file", "style.safetensors", tensors)
    state, alphas = diffusers.StableDiffusionPipeline.lora_state_dict(str(source / "style.safetensors"), unet_config=unet.config)
    theirs = copy.deepcopy(unet)
    theirs.load_lora_adapter(state, prefix="unet", network_alphas=alphas)
    ours = loaded(unet, converted(source, tmp_path / "peft", tmp_path / "base")[""])
    given = {"sample": torch.randn(1, 4, 8, 8), "timestep": 3, "encoder_hidden_states": torch.randn(1, 3, 8)}
    with torch.no_grad():
        plain, wanted, found = (m(**given).sample for m in (unet, theirs, ours))
    assert (wanted - plain).abs().max() > 1e-2
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
