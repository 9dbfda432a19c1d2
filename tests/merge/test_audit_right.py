"""Right merges, by every arithmetic and into every form of file: no false alarm."""

from __future__ import annotations

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from loradoctor.checkpoint.run import CheckOptions, check_many
from tests.merge import planted
from tests.merge.test_methods import MERGING, build
from tests.oracle import zoo

pytestmark = pytest.mark.filterwarnings("ignore")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MODELS = transformers.AutoModelForCausalLM


def audited(adapter, base, merged):
    """The ``merged-copy`` entry and the codes found."""
    report = check_many([str(adapter)], CheckOptions(base=str(base), merged=str(merged), merge=False))
    (entry,) = [c for c in report.checks if c.name == "merged-copy"]
    return entry, [(d.code, d.message) for d in report.diagnostics if d.code not in ("LD525", "LD807")]


def assert_right(adapter, base, merged):
    entry, found = audited(adapter, base, merged)
    assert not found
    assert entry.status == "passed", entry
    assert entry.measured is None or entry.measured <= entry.bound
    return entry


def by_peft(adapter, base, directory, *, dtype="auto", stored=None, cls=MODELS, safe=False, **saving):
    model = peft.PeftModel.from_pretrained(cls.from_pretrained(base, dtype=dtype), adapter).merge_and_unload(safe_merge=safe)
    if stored is not None:
        model = model.to(stored)
    model.save_pretrained(directory, **saving)
    return directory


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    made = {}

    def make(dtype, **fields):
        key = (dtype, *sorted(fields.items()))
        if key not in made:
            root = tmp_path_factory.mktemp(f"right-{dtype}")
            planted.model(root / "base", DTYPES[dtype])
            made[key] = root / "base", planted.trained(root / "adapter", root / "base", DTYPES[dtype], **fields)
        return made[key]

    return make


@pytest.mark.parametrize("safe", [False, True], ids=["plain", "safe"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_merged_by_peft(in_process, pair, tmp_path, dtype, kind, safe):
    fields = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}[kind]
    base, adapter = pair(dtype, **fields)
    entry = assert_right(adapter, base, by_peft(adapter, base, tmp_path / "merged", safe=safe))
    assert entry.effect > 0.05


@pytest.mark.parametrize("kind", MERGING)
def test_every_method(in_process, base, tmp_path, kind):
    adapter = build(kind, MERGING, base, tmp_path)
    assert_right(adapter, base, by_peft(adapter, base, tmp_path / "merged"))


def _float32(w, b, a, s):
    return (w.float() + s * b @ a).to(w.dtype)


def _addmm(w, b, a, s):
    return torch.addmm(w.float(), b, a, alpha=s).to(w.dtype)


def _scaled_first(w, b, a, s):
    return w.float().addmm(b, s * a).to(w.dtype)


def _update_rounded(w, b, a, s):
    return w + (s * (b @ a)).to(w.dtype)


def _all_rounded(w, b, a, s):
    return w + (s * (b.to(w.dtype) @ a.to(w.dtype))).to(w.dtype)


def _double(w, b, a, s):
    return (w.double() + s * b.double() @ a.double()).to(w.dtype)


ARITHMETIC = {f.__name__[1:]: f for f in (_float32, _addmm, _scaled_first, _update_rounded, _double)}


@pytest.mark.parametrize("sharded", [False, True], ids=["single", "sharded"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("how", ARITHMETIC)
def test_other_arithmetic(in_process, pair, tmp_path, dtype, how, sharded):
    base, adapter = pair(dtype)
    tensors = load_file(adapter / "adapter_model.safetensors")
    state = planted.weights(base)
    for key, a in tensors.items():
        if "lora_A" in key:
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            state[name] = ARITHMETIC[how](state[name], tensors[key.replace("lora_A", "lora_B")], a, 12 / 8)
    assert_right(adapter, base, planted.write(tmp_path / "merged", state, base, sharded=sharded))


@pytest.mark.parametrize("to", DTYPES)
@pytest.mark.parametrize("through", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_other_dtypes_on_the_way_and_at_the_end(in_process, pair, tmp_path, dtype, through, to):
    base, adapter = pair(dtype)
    merged = by_peft(adapter, base, tmp_path / "merged", dtype=DTYPES[through], stored=DTYPES[to])
    assert_right(adapter, base, merged)


def test_pickled_on_both_sides(in_process, pair, tmp_path):
    base, adapter = pair("bf16")
    right = planted.merged(planted.weights(base), planted.updates(adapter))
    merged = planted.write(tmp_path / "merged", right, base, pickled=True, sharded=True)
    assert_right(adapter, planted.write(tmp_path / "base", planted.weights(base), base, pickled=True), merged)


@pytest.mark.parametrize("rows", [80, 48], ids=["more", "fewer"])
def test_a_resized_vocabulary(in_process, pair, tmp_path, rows):
    base, adapter = pair("fp32")
    model = MODELS.from_pretrained(base)
    merged = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.resize_token_embeddings(rows)
    merged.save_pretrained(tmp_path / "merged")
    entry = assert_right(adapter, base, tmp_path / "merged")
    assert "2 with more or fewer tokens" in entry.reason


@pytest.mark.parametrize("fields", [
    {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    {"trainable_token_indices": [1, 5]},
    {"modules_to_save": ["lm_head"]},
    {"modules_to_save": ["embed_tokens", "lm_head"]},
    {"bias": "all"},
], ids=["targets", "tokens", "saved head", "saved both", "bias"])  # fmt: skip
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_embeddings(in_process, tmp_path, tied, fields):
    if tied and fields.get("modules_to_save") == ["lm_head"]:
        pytest.skip("transformers cannot save what PEFT makes of it")
    base = tmp_path / "base"
    model = zoo.llama(base, tie_word_embeddings=tied, attention_bias=True)
    adapter = zoo.adapter(tmp_path / "adapter", model, zoo.lora(**fields), base=base)
    assert_right(adapter, base, by_peft(adapter, base, tmp_path / "merged"))


def test_tied_models_store_the_matrix_once_or_twice(in_process, tmp_path):
    base = tmp_path / "base"
    model = zoo.llama(base, tie_word_embeddings=True)
    adapter = zoo.adapter(tmp_path / "adapter", model, zoo.lora(), base=base)
    merged = by_peft(adapter, base, tmp_path / "merged")
    assert_right(adapter, base, merged)
    state = load_file(merged / "model.safetensors")
    save_file({**state, "lm_head.weight": state["model.embed_tokens.weight"].clone()}, merged / "model.safetensors")
    assert_right(adapter, base, merged)
    twice = {**planted.weights(base), "lm_head.weight": state["model.embed_tokens.weight"]}
    assert_right(adapter, planted.write(tmp_path / "twice", twice, base), merged)


@pytest.mark.parametrize("use_dora", [False, True])
def test_conv1d(in_process, tmp_path, use_dora):
    base = tmp_path / "gpt2"
    model = zoo.gpt2(base)
    config = zoo.lora(target_modules=["c_attn", "c_proj", "wte"], use_dora=use_dora, fan_in_fan_out=True)
    adapter = zoo.adapter(tmp_path / "a", model, config, base=base)
    merged = by_peft(adapter, base, tmp_path / "merged")
    assert_right(adapter, base, merged)
    # As the original gpt2 repository is stored: without the prefix, with old buffers.
    state = {k.removeprefix("transformer."): v for k, v in load_file(base / "model.safetensors").items()}
    old = planted.write(tmp_path / "old", {**state, "h.0.attn.bias": torch.ones(1, 1, 4, 4)}, base)
    assert_right(adapter, old, merged)


@pytest.mark.parametrize("use_dora", [False, True])
def test_convolutions(in_process, tmp_path, use_dora):
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=8)
    base = tmp_path / "vit"
    model = transformers.ViTForImageClassification(config)
    model.save_pretrained(base)
    lora = zoo.lora(task_type=None, target_modules=["projection"], modules_to_save=["classifier"], use_dora=use_dora)
    adapter = zoo.adapter(tmp_path / "a", model, lora, base=base)
    merged = by_peft(adapter, base, tmp_path / "merged", cls=transformers.ViTForImageClassification)
    assert_right(adapter, base, merged)


def test_an_adapter_in_half_precision(in_process, pair, tmp_path):
    base, adapter = pair("fp32")
    tensors = load_file(adapter / "adapter_model.safetensors")
    half = tmp_path / "half"
    half.mkdir()
    save_file({k: v.bfloat16() for k, v in tensors.items()}, half / "adapter_model.safetensors")
    (half / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    model = peft.PeftModel.from_pretrained(MODELS.from_pretrained(base), half, autocast_adapter_dtype=False)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert_right(half, base, tmp_path / "merged")


def test_an_adapter_without_effect_proves_nothing(in_process, base, tmp_path):
    model = zoo.llama(tmp_path / "scratch")
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(), base=base, std=0.0)
    entry, found = audited(adapter, base, base)
    assert entry.status == "vacuous", entry
    assert [code for code, _ in found] == ["LD702"]


def test_prompt_learning_is_not_run(in_process, base, tmp_path):
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    adapter = zoo.adapter(tmp_path / "a", zoo.llama(tmp_path / "scratch"), config, base=base)
    entry, found = audited(adapter, base, base)
    assert entry.status == "not-run"
    assert not found
    assert "nothing to merge" in entry.reason


@pytest.mark.skipif(transformers.__version__ < "5", reason="transformers fuses experts from release 5 on")
def test_a_base_of_experts(in_process, tmp_path):
    config = transformers.MixtralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=64,
        num_local_experts=3, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    base = tmp_path / "base"
    model = transformers.MixtralForCausalLM(config)
    model.save_pretrained(base)
    assert any(".experts.0." in name for name in load_file(base / "model.safetensors"))
    lora = zoo.lora(target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
    adapter = zoo.adapter(tmp_path / "a", model, lora, base=base)
    merged = by_peft(adapter, base, tmp_path / "merged")
    assert_right(adapter, base, merged)
    fused = by_peft(adapter, base, tmp_path / "fused", save_original_format=False)
    assert not any(".experts.0." in name for name in load_file(fused / "model.safetensors"))
    assert_right(adapter, base, fused)
    plain = zoo.adapter(tmp_path / "plain", MODELS.from_pretrained(base), zoo.lora(target_modules=["q_proj"]), base=base)
    assert_right(plain, base, by_peft(plain, base, tmp_path / "plain-fused", save_original_format=False))
    fused_base = tmp_path / "fused-base"
    MODELS.from_pretrained(base).save_pretrained(fused_base, save_original_format=False)
    assert_right(plain, fused_base, by_peft(plain, base, tmp_path / "plain-merged"))
    assert_right(adapter, fused_base, merged)


@pytest.mark.parametrize("whole", [True, False], ids=["pipeline", "part"])
def test_a_part_of_a_pipeline(in_process, tmp_path, whole):
    from tests.oracle import test_pipeline

    base = test_pipeline.pipeline.__wrapped__(tmp_path)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    adapter = zoo.adapter(tmp_path / "a", test_pipeline.text_encoder(), config, base=base)
    model = transformers.CLIPTextModel.from_pretrained(base / "text_encoder")
    merged = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged" / "text_encoder")
    assert_right(adapter, base, tmp_path / "merged" if whole else tmp_path / "merged" / "text_encoder")
    state = load_file(tmp_path / "merged" / "text_encoder" / "model.safetensors")
    name = next(n for n in state if "q_proj.weight" in n)
    save_file({**state, name: state[name] * 2}, tmp_path / "merged" / "text_encoder" / "model.safetensors")
    report = check_many([str(adapter)], CheckOptions(base=str(base), merged=str(tmp_path / "merged"), merge=False))
    (found,) = [d for d in report.diagnostics if d.code == "LD815"]
    assert found.location.path == f"{tmp_path}/merged/text_encoder/model.safetensors"
