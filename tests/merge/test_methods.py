"""Every method whose layers the installed PEFT can build: merged equals unmerged, and the status says so."""

from __future__ import annotations

import peft
import pytest
import torch
import transformers

from tests.oracle import zoo

pytestmark = pytest.mark.filterwarnings("ignore")

T = zoo.TARGETS
SQUARE = ["q_proj", "o_proj"]
MERGING = {
    "lora": ("LoraConfig", {"r": 4, "target_modules": T}),
    "dora": ("LoraConfig", {"r": 4, "target_modules": T, "use_dora": True}),
    "rslora-patterns": (
        "LoraConfig",
        {"r": 4, "target_modules": T, "use_rslora": True, "rank_pattern": {"up_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    ),
    "embeddings": ("LoraConfig", {"r": 4, "target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "dora-embeddings": ("LoraConfig", {"r": 4, "target_modules": ["q_proj", "embed_tokens"], "use_dora": True}),
    "modules-to-save": ("LoraConfig", {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "trained-tokens": ("LoraConfig", {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [1, 5]}),
    "bias": ("LoraConfig", {"r": 4, "target_modules": T, "bias": "all"}),
    "all-linear": ("LoraConfig", {"r": 4, "target_modules": "all-linear"}),
    "regex": ("LoraConfig", {"r": 4, "target_modules": r"model\.layers\.\d+\.self_attn\.[qv]_proj"}),
    "one-layer": ("LoraConfig", {"r": 4, "target_modules": T, "layers_to_transform": [1]}),
    "pissa": ("LoraConfig", {"r": 4, "target_modules": T, "init_lora_weights": "pissa"}),
    "olora": ("LoraConfig", {"r": 4, "target_modules": T, "init_lora_weights": "olora"}),
    "adalora": ("AdaLoraConfig", {"init_r": 6, "target_r": 4, "total_step": 10, "target_modules": T}),
    "loha": ("LoHaConfig", {"r": 4, "target_modules": T}),
    "lokr": ("LoKrConfig", {"r": 4, "target_modules": T}),
    "vera": ("VeraConfig", {"r": 4, "target_modules": SQUARE}),
    "vera-without-projection": ("VeraConfig", {"r": 4, "target_modules": SQUARE, "save_projection": False}),
    "randlora": ("RandLoraConfig", {"r": 4, "target_modules": SQUARE}),
    "fourierft": ("FourierFTConfig", {"n_frequency": 10, "target_modules": T}),
    "vblora": ("VBLoRAConfig", {"r": 4, "num_vectors": 16, "vector_length": 8, "target_modules": SQUARE}),
    "ia3": ("IA3Config", {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "oft": ("OFTConfig", {"r": 0, "oft_block_size": 4, "target_modules": T}),
    "boft": ("BOFTConfig", {"boft_block_size": 4, "target_modules": T}),
    "hra": ("HRAConfig", {"r": 4, "target_modules": T}),
    "ln-tuning": ("LNTuningConfig", {"target_modules": ["input_layernorm"]}),
    "trainable-tokens": ("TrainableTokensConfig", {"token_indices": [1, 5], "target_modules": ["embed_tokens"]}),
    "shira": ("ShiraConfig", {"r": 4, "target_modules": T}),
    "miss": ("MissConfig", {"r": 4, "target_modules": T}),
    "c3a": ("C3AConfig", {"block_size": 16, "target_modules": T}),
    "delora": ("DeloraConfig", {"r": 4, "target_modules": T}),
    "gralora": ("GraloraConfig", {"r": 4, "gralora_k": 2, "target_modules": T}),
    "waveft": ("WaveFTConfig", {"n_frequency": 10, "target_modules": T}),
    "osf": ("OSFConfig", {"target_modules": T}),
    "psoft": ("PsoftConfig", {"r": 4, "target_modules": T}),
    "tinylora": ("TinyLoraConfig", {"target_modules": T}),
    "frod": ("FrodConfig", {"target_modules": SQUARE, "progressbar": False}),
}


def build(kind, table, base, tmp_path):
    name, fields = table[kind]
    if not zoo.has(name):
        pytest.skip(f"this PEFT has no {name}")
    config = getattr(peft, name)(task_type="CAUSAL_LM", **fields)
    return zoo.adapter(tmp_path / "adapter", zoo.llama(tmp_path / "scratch"), config, base=base)


@pytest.mark.parametrize("kind", MERGING)
def test_merging_is_proven(examine, base, tmp_path, kind):
    result = examine(build(kind, MERGING, base, tmp_path), forward=True)
    merge = result.check("merge-equivalence")
    assert result.check("loads").status == "passed", result.check("loads")
    assert merge.status == "passed", merge
    assert merge.measured <= merge.bound <= 2e-5
    assert merge.effect > 1e-4
    # LD807 only says that other programs than PEFT would go wrong.
    assert not [code for code in result.codes if code.startswith("LD8") and code != "LD807"]
    # The whole model, an independent witness: what the layers prove shows in its outputs.
    forward = result.check("forward")
    assert forward.status == "passed", forward
    assert forward.effect > 100 * forward.measured


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", MERGING)
def test_the_verdict_in_half_precision_is_that_of_the_whole_model(examine, tmp_path, kind, dtype):
    """PEFT's own merge in the dtype of the base, run as a whole: as far from the unmerged model as rounding and no further."""
    base = tmp_path / "base"
    zoo.llama(base, dtype=getattr(torch, dtype))
    adapter = build(kind, MERGING, base, tmp_path)
    result = examine(adapter)
    assert result.check("merge-equivalence").status == "passed", result.check("merge-equivalence")
    difference, effect, noise = whole_model(adapter, base, getattr(torch, dtype))
    assert difference <= 0.25 * effect + noise


def whole_model(adapter, base, dtype):
    """Largest differences of logits: merged against unmerged, with against without adapter; and what rounding gives anyway."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation="eager").eval()
    ids = torch.arange(16)[None]
    with torch.no_grad():
        plain = model(ids).logits.float()
        wrapped = peft.PeftModel.from_pretrained(model, adapter).eval()
        adapted = wrapped(ids).logits.float()
        merged = wrapped.merge_and_unload()(ids).logits.float()
    noise = 8 * torch.finfo(dtype).eps * float(adapted.abs().max())
    return float((merged - adapted).abs().max()), float((adapted - plain).abs().max()), noise


CANNOT = {
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 3}, "info"),
    "p-tuning": ("PromptEncoderConfig", {"num_virtual_tokens": 3, "encoder_hidden_size": 8}, "info"),
    "lily": ("LilyConfig", {"r": 4, "target_modules": T}, "info"),
    "shadow": ("ShadowConfig", {}, "info"),
    "lora-bias": ("LoraConfig", {"r": 4, "target_modules": T, "lora_bias": True}, "error"),
    "beft": ("BeftConfig", {"target_modules": ["q_proj"]}, "error"),
}


@pytest.mark.parametrize("kind", CANNOT)
def test_what_cannot_merge_is_said_and_not_passed(examine, base, tmp_path, kind):
    *table, severity = CANNOT[kind]
    result = examine(build(kind, {kind: table}, base, tmp_path))
    assert result.check("merge-equivalence").status == "not-run"
    assert [d.severity.value for d in result.report.diagnostics if d.code == "LD804"] == [severity]


def test_a_basis_of_all_layers_that_the_file_lacks_is_not_run(examine, base, tmp_path):
    fields = {"target_modules": SQUARE, "save_projection": False, "progressbar": False}
    result = examine(build("frod", {"frod": ("FrodConfig", fields)}, base, tmp_path))
    assert result.check("merge-equivalence").status == "not-run"
    assert "all layers of a kind together" in result.check("merge-equivalence").reason


@pytest.mark.parametrize("use_dora", [False, True])
def test_conv1d_layers_of_gpt2(examine, tmp_path, use_dora):
    model = zoo.gpt2(tmp_path / "gpt2")
    config = zoo.lora(target_modules=["c_attn", "c_proj"], use_dora=use_dora, fan_in_fan_out=True)
    result = examine(zoo.adapter(tmp_path / "a", model, config, base=tmp_path / "gpt2"))
    assert result.check("merge-equivalence").status == "passed"


def test_convolutions(examine, tmp_path):
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=8
    )
    model = transformers.ViTForImageClassification(config)
    model.save_pretrained(tmp_path / "vit")
    adapter = zoo.lora(task_type=None, target_modules=["projection"], modules_to_save=["classifier"])
    result = examine(zoo.adapter(tmp_path / "a", model, adapter, base=tmp_path / "vit"))
    assert result.check("merge-equivalence").status == "passed"


def video(directory):
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=8, num_frames=4
    )
    model = transformers.VideoMAEForVideoClassification(config)
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("use_dora", [False, True])
def test_convolutions_of_videos(examine, tmp_path, use_dora):
    config = zoo.lora(task_type=None, target_modules=["projection"], modules_to_save=["classifier"], use_dora=use_dora)
    result = examine(zoo.adapter(tmp_path / "a", video(tmp_path / "video"), config, base=tmp_path / "video"))
    assert result.check("merge-equivalence").status == "passed"


def test_an_attention_module_that_is_adapted_as_a_whole(examine, tmp_path):
    torch.manual_seed(0)
    config = transformers.SiglipVisionConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=8
    )
    model = transformers.SiglipVisionModel(config)
    model.save_pretrained(tmp_path / "siglip")
    adapter = zoo.lora(task_type=None, target_modules=["head.attention", "q_proj"])
    result = examine(zoo.adapter(tmp_path / "a", model, adapter, base=tmp_path / "siglip"))
    check = result.check("merge-equivalence")
    assert check.status == "passed", check
    assert check.effect > 0.01


@pytest.mark.parametrize("fields", [{"bias": "lora_only"}, {"bias": "all"}, {"lora_bias": True, "target_modules": ["q_proj"]}])
def test_biases_that_merge(examine, tmp_path, fields):
    model = zoo.llama(tmp_path / "base", attention_bias=True)
    result = examine(zoo.adapter(tmp_path / "a", model, zoo.lora(**fields), base=tmp_path / "base"), forward=True)
    assert result.check("merge-equivalence").status == "passed"
    assert result.check("forward").status == "passed"


def gemma(directory):
    """Its embeddings are multiplied in the layer itself, by a buffer."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    rest = {"head_dim": 8, "vocab_size": 64, "max_position_embeddings": 64, "tie_word_embeddings": False}
    model = transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**sizes, **rest))
    model.save_pretrained(directory)
    return model


def test_embeddings_that_scale_what_they_give(examine, tmp_path):
    """PEFT 0.17 does not scale the update as well: there, the merged model really is another one."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapter = zoo.lora(target_modules=["embed_tokens", "q_proj"])
    result = examine(zoo.adapter(tmp_path / "a", gemma(tmp_path / "base"), adapter, base=tmp_path / "base"), forward=True)
    expected = "passed" if hasattr(BaseTunerLayer, "_get_embed_scale") else "failed"
    assert (result.check("merge-equivalence").status, result.check("forward").status) == (expected, expected)


def test_a_whole_head_beside_adapted_layers(examine, tmp_path):
    """`modules_to_save` keeps the head's own `dense` from being adapted, although it matches `target_modules`."""
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=64
    )
    model = transformers.RobertaForSequenceClassification(config)
    model.save_pretrained(tmp_path / "base")
    adapter = zoo.lora(task_type="SEQ_CLS", target_modules=["query", "dense"], modules_to_save=["classifier"])
    result = examine(zoo.adapter(tmp_path / "a", model, adapter, base=tmp_path / "base"), forward=True)
    assert result.check("merge-equivalence").status == "passed"
    assert result.check("forward").status == "passed"
