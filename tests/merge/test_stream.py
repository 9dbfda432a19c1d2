"""The streaming merge writes, byte for byte, the files that `merge_and_unload()` and `save_pretrained()` write."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path

import peft
import pytest
import torch
import transformers

from loradoctor.oracle.streaming import request as merging
from tests.merge.test_methods import MERGING, build
from tests.oracle import zoo

pytestmark = pytest.mark.filterwarnings("ignore")


def request(adapter, base, output, **fields):
    return {"task": "merge", "adapter": str(adapter), "base": str(base), "output": str(output), **fields}


def streamed(adapter, base, output, **fields):
    answer = merging.merge(request(adapter, base, output, **fields), lambda *_, **__: None)
    assert answer.get("audit", {}).get("status") == "passed", answer
    return Path(answer["directory"])


def by_peft(adapter, base, output, *, cls="AutoModelForCausalLM", dtype="auto", cast=None, vocabulary=None, **save):
    settings = {"dtype": dtype} if transformers.__version__ >= "4.56" else {"torch_dtype": dtype}
    model = getattr(transformers, cls).from_pretrained(base, **settings)
    if vocabulary is not None:
        model.resize_token_embeddings(vocabulary)
    model = peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    if cast is not None:
        model.to(cast)
    model.save_pretrained(output, **save)
    return output


def assert_same(ours, theirs):
    names = {p.name for p in theirs.iterdir()}
    assert {p.name for p in ours.iterdir()} >= names
    for name in sorted(names):
        if name.endswith(".json"):
            assert json.loads((ours / name).read_text()) == json.loads((theirs / name).read_text()), name
        assert filecmp.cmp(ours / name, theirs / name, shallow=False), name


@pytest.mark.parametrize("kind", MERGING)
def test_every_method_gives_the_files_that_peft_gives(base, tmp_path, kind):
    adapter = build(kind, MERGING, base, tmp_path)
    assert_same(streamed(adapter, base, tmp_path / "ours"), by_peft(adapter, base, tmp_path / "theirs"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tied", [False, True])
def test_half_precision_and_ties(tmp_path, dtype, tied):
    model = zoo.llama(tmp_path / "base", dtype=dtype, tie_word_embeddings=tied)
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(), base=tmp_path / "base")
    assert_same(streamed(adapter, tmp_path / "base", tmp_path / "ours"), by_peft(adapter, tmp_path / "base", tmp_path / "theirs"))


@pytest.mark.parametrize(
    "fields",
    [
        {"trainable_token_indices": [1, 5]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"modules_to_save": ["norm"], "bias": "all"},
    ],
)
def test_tied_embeddings_that_part_or_stay(tmp_path, fields):
    model = zoo.llama(tmp_path / "base", dtype=torch.bfloat16, tie_word_embeddings=True)
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(**fields), base=tmp_path / "base")
    assert_same(streamed(adapter, tmp_path / "base", tmp_path / "ours"), by_peft(adapter, tmp_path / "base", tmp_path / "theirs"))


def test_many_shards_and_their_index(tmp_path):
    model = zoo.llama(tmp_path / "base", dtype=torch.bfloat16)
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(), base=tmp_path / "base")
    ours = streamed(adapter, tmp_path / "base", tmp_path / "ours", shard_size="10KB")
    assert len(list(ours.glob("*.safetensors"))) > 3
    assert_same(ours, by_peft(adapter, tmp_path / "base", tmp_path / "theirs", max_shard_size="10KB"))


def test_conv1d_of_gpt2(tmp_path):
    model = zoo.gpt2(tmp_path / "base")
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(target_modules=["c_attn"], fan_in_fan_out=True), base=tmp_path / "base")
    assert_same(streamed(adapter, tmp_path / "base", tmp_path / "ours"), by_peft(adapter, tmp_path / "base", tmp_path / "theirs"))


def test_an_encoder_and_decoder(tmp_path):
    torch.manual_seed(0)
    config = transformers.T5Config(d_model=32, d_ff=48, num_layers=2, num_heads=4, d_kv=8, vocab_size=64, decoder_start_token_id=0)
    model = transformers.T5ForConditionalGeneration(config).to(torch.float16)
    model.save_pretrained(tmp_path / "base")
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(target_modules=["q", "v", "wo"], task_type="SEQ_2_SEQ_LM"), base=tmp_path / "base")
    theirs = by_peft(adapter, tmp_path / "base", tmp_path / "theirs", cls="AutoModelForSeq2SeqLM")
    assert_same(streamed(adapter, tmp_path / "base", tmp_path / "ours"), theirs)


def test_a_classification_head_from_the_adapter(tmp_path):
    zoo.llama(tmp_path / "base", dtype=torch.bfloat16, pad_token_id=0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3, dtype="auto")
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(task_type="SEQ_CLS"), base=tmp_path / "base")
    ours = streamed(adapter, tmp_path / "base", tmp_path / "ours", num_labels=3)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3, dtype="auto")
    peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(tmp_path / "theirs")
    assert_same(ours, tmp_path / "theirs")


def test_a_head_that_nobody_has_is_refused_by_name(tmp_path):
    zoo.llama(tmp_path / "base", dtype=torch.bfloat16, pad_token_id=0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3, dtype="auto")
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(task_type="SEQ_CLS"), base=tmp_path / "base")
    raw = json.loads((adapter / "adapter_config.json").read_text())
    without = {"task_type": None, "modules_to_save": None, "auto_mapping": {"base_model_class": "LlamaForSequenceClassification"}}
    (adapter / "adapter_config.json").write_text(json.dumps({**raw, **without}))
    from safetensors.torch import load_file, save_file

    weights = adapter / "adapter_model.safetensors"
    save_file({k: t for k, t in load_file(weights).items() if "score" not in k}, weights)
    answer = merging.merge(request(adapter, tmp_path / "base", tmp_path / "ours"), lambda *_, **__: None)
    assert "`score.weight`" in answer["refused"]
    assert not list(tmp_path.glob("ours*"))


def test_images(tmp_path):
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=8)
    model = transformers.ViTForImageClassification(config)
    model.save_pretrained(tmp_path / "base")
    fields = {"task_type": None, "target_modules": ["projection", "query"], "modules_to_save": ["classifier"]}
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(**fields), base=tmp_path / "base")
    theirs = by_peft(adapter, tmp_path / "base", tmp_path / "theirs", cls="AutoModelForImageClassification")
    assert_same(streamed(adapter, tmp_path / "base", tmp_path / "ours"), theirs)


def mixtral(directory):
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=64, num_local_experts=4
    )
    model = transformers.MixtralForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(directory)
    return model


@pytest.mark.skipif(transformers.__version__ < "5", reason="experts are fused from transformers 5 on")
@pytest.mark.parametrize("parameters", [None, ["mlp.experts.gate_up_proj"], ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]])
@pytest.mark.parametrize("shard_size", [None, "8KB"])
def test_experts_that_are_fused_in_memory_and_apart_on_disk(tmp_path, parameters, shard_size):
    model = mixtral(tmp_path / "base")
    fields = {"target_parameters": parameters} if parameters else {}
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(target_modules=["q_proj"], **fields), base=tmp_path / "base")
    ours = streamed(adapter, tmp_path / "base", tmp_path / "ours", shard_size=shard_size)
    assert_same(ours, by_peft(adapter, tmp_path / "base", tmp_path / "theirs", **({"max_shard_size": shard_size} if shard_size else {})))


@pytest.mark.parametrize(("stored", "asked"), [(torch.bfloat16, "float32"), (torch.float32, "bfloat16"), (torch.float32, "float16")])
def test_another_dtype_is_rounded_once(tmp_path, stored, asked):
    model = zoo.llama(tmp_path / "base", dtype=stored)
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(), base=tmp_path / "base")
    wider = torch.promote_types(stored, getattr(torch, asked))
    ours = streamed(adapter, tmp_path / "base", tmp_path / "ours", dtype=asked)
    assert_same(ours, by_peft(adapter, tmp_path / "base", tmp_path / "theirs", dtype=wider, cast=getattr(torch, asked)))


@pytest.mark.parametrize("declared", ["float32", "float16", None])
def test_the_dtype_of_the_config_decides_and_without_one_that_of_the_files(tmp_path, declared):
    model = zoo.llama(tmp_path / "base", dtype=torch.bfloat16)
    raw = json.loads((tmp_path / "base" / "config.json").read_text())
    raw = {k: v for k, v in raw.items() if k not in ("dtype", "torch_dtype")} | ({"torch_dtype": declared} if declared else {})
    (tmp_path / "base" / "config.json").write_text(json.dumps(raw))
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(), base=tmp_path / "base")
    assert_same(streamed(adapter, tmp_path / "base", tmp_path / "ours"), by_peft(adapter, tmp_path / "base", tmp_path / "theirs"))


@pytest.mark.skipif(transformers.__version__ < "5", reason="transformers 4 ties whatever the files hold")
def test_a_tie_that_the_files_contradict(tmp_path):
    model = zoo.llama(tmp_path / "base", dtype=torch.bfloat16)
    raw = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**raw, "tie_word_embeddings": True}))
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(), base=tmp_path / "base")
    answer = merging.merge(request(adapter, tmp_path / "base", tmp_path / "ours"), lambda *_, **__: None)
    assert_same(Path(answer["directory"]), by_peft(adapter, tmp_path / "base", tmp_path / "theirs"))
    assert answer["audit"]["status"] == "passed", answer["audit"]


@pytest.mark.parametrize("kind", ["bin", "sharded", "sharded-bin"])
def test_bases_in_every_container(tmp_path, kind):
    model = zoo.llama(tmp_path / "base", dtype=torch.bfloat16)
    (tmp_path / "base" / "model.safetensors").unlink()
    if kind == "sharded":
        model.save_pretrained(tmp_path / "base", max_shard_size="10KB")
    else:
        torch.save(model.state_dict(), tmp_path / "base" / "pytorch_model.bin")
        if kind == "sharded-bin":
            (tmp_path / "base" / "pytorch_model.bin").rename(tmp_path / "base" / "pytorch_model-00001-of-00001.bin")
            table = dict.fromkeys(model.state_dict(), "pytorch_model-00001-of-00001.bin")
            (tmp_path / "base" / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(), base=tmp_path / "base")
    assert_same(streamed(adapter, tmp_path / "base", tmp_path / "ours"), by_peft(adapter, tmp_path / "base", tmp_path / "theirs"))


@pytest.mark.parametrize("tied", [False, True])
def test_a_vocabulary_that_the_adapter_has_enlarged(tmp_path, tied):
    zoo.llama(tmp_path / "base", dtype=torch.bfloat16, tie_word_embeddings=tied)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype="auto")
    model.resize_token_embeddings(70)
    targets = ["q_proj"] if tied else ["q_proj", "lm_head"]
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(target_modules=targets, modules_to_save=["embed_tokens"]), base=tmp_path / "base")
    theirs = by_peft(adapter, tmp_path / "base", tmp_path / "theirs", vocabulary=70)
    assert_same(streamed(adapter, tmp_path / "base", tmp_path / "ours"), theirs)
