"""LoRA on parameters: fused experts, which files keep one by one, and other parameters without a module of their own."""

from __future__ import annotations

import json

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from loradoctor.oracle.files.weights import BaseWeights
from loradoctor.oracle.model.base import build
from loradoctor.oracle.model.loading import Loading
from loradoctor.oracle.proof import merged
from tests.merge.test_merged import merged_state
from tests.oracle import zoo

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not hasattr(peft.LoraConfig, "target_parameters"), reason="this PEFT adapts no parameters"),
]

EXPERTS = 4
MODELS = {
    "mixtral": ("Mixtral", {"num_local_experts": EXPERTS}),
    "qwen": ("Qwen2Moe", {"num_experts": EXPERTS, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 48, "num_experts_per_tok": 2}),
    # The only one of them that stores (experts, in, out).
    "llama4": ("Llama4", {"num_local_experts": EXPERTS, "intermediate_size_mlp": 48, "head_dim": 8, "interleave_moe_layer_step": 1}),
}
FUSED = int(transformers.__version__.split(".")[0]) >= 5


def moe(directory, kind="mixtral", dtype=torch.float32):
    torch.manual_seed(0)
    name, own = MODELS[kind]
    suffix = "TextConfig" if kind == "llama4" else "Config"
    sizes = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 64, "pad_token_id": 0,
    }  # fmt: skip
    config = getattr(transformers, name + suffix)(**{**sizes, **own})
    model = getattr(transformers, f"{name}ForCausalLM")(config).to(dtype)
    for parameter in model.parameters():
        # Some of these are created without values.
        parameter.data.normal_(std=0.02)
    model.save_pretrained(directory)
    return model


def fused(**fields):
    return zoo.lora(**{"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"], **fields})


@pytest.mark.skipif(not FUSED, reason="transformers 4 does not fuse these experts")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", MODELS)
def test_fused_experts_are_proven(examine, tmp_path, kind, dtype):
    model = moe(tmp_path / "base", kind, dtype)
    result = examine(zoo.adapter(tmp_path / "a", model, fused(), base=tmp_path / "base"), forward=True)
    check = result.check("merge-equivalence")
    assert check.status == "passed", check
    assert "6 modules" in check.reason
    assert result.check("forward").status == "passed"


@pytest.mark.skipif(not FUSED, reason="transformers 4 does not fuse these experts")
def test_one_of_two_parameters_of_a_module(examine, tmp_path):
    adapter = fused(target_modules=[], target_parameters=["experts.down_proj"])
    result = examine(zoo.adapter(tmp_path / "a", moe(tmp_path / "base"), adapter, base=tmp_path / "base"))
    assert "2 modules" in result.check("merge-equivalence").reason
    assert result.check("merge-equivalence").status == "passed"


def test_a_parameter_of_a_linear_layer(examine, tmp_path):
    model = zoo.llama(tmp_path / "base")
    adapter = zoo.lora(target_modules=["v_proj"], target_parameters=["q_proj.weight"])
    result = examine(zoo.adapter(tmp_path / "a", model, adapter, base=tmp_path / "base"), forward=True)
    assert result.check("merge-equivalence").status == "passed"
    assert result.check("forward").status == "passed"


@pytest.mark.skipif(not FUSED, reason="transformers 4 does not fuse these experts")
@pytest.mark.parametrize("kind", MODELS)
def test_merged_experts_are_those_of_peft(tmp_path, kind):
    model = moe(tmp_path / "base", kind)
    adapter = zoo.adapter(tmp_path / "a", model, fused(), base=tmp_path / "base")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    after = peft.PeftModel.from_pretrained(loaded, adapter).merge_and_unload().state_dict()
    found = merged_state(adapter, tmp_path / "base")
    assert all(torch.equal(found[name], after[name]) for name in found)
    assert {name for name in after if not torch.equal(before[name], after[name])} <= set(found)


@pytest.mark.skipif(not FUSED, reason="transformers 4 does not fuse these experts")
def test_an_adapter_of_single_experts_on_the_fused_model(examine, tmp_path):
    """As transformers 4 had the experts: PEFT turns such an adapter into one of the fused parameters, with twice the rank."""
    moe(tmp_path / "base")
    tensors = {}
    for layer in range(2):
        for expert in range(EXPERTS):
            for name, (inputs, outputs) in {"w1": (32, 48), "w2": (48, 32), "w3": (32, 48)}.items():
                path = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                tensors[f"{path}.lora_A.weight"] = torch.randn(4, inputs) * 0.05
                tensors[f"{path}.lora_B.weight"] = torch.randn(outputs, 4) * 0.05
    (tmp_path / "a").mkdir()
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["w1", "w2", "w3"], "task_type": "CAUSAL_LM"}
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(tmp_path / "base")}))
    result = examine(tmp_path / "a", forward=True)
    assert result.check("merge-equivalence").status == "passed", result.check("merge-equivalence")
    assert result.check("forward").status == "passed"


@pytest.mark.skipif(not FUSED, reason="transformers 4 does not fuse these experts")
def test_a_missing_expert_of_the_base_is_said(examine, tmp_path):
    adapter = zoo.adapter(tmp_path / "a", moe(tmp_path / "base"), fused(), base=tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.0.block_sparse_moe.experts.2.w2.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    check = examine(adapter).check("merge-equivalence")
    assert check.status == "not-run"
    assert "`model.layers.0.mlp.experts.down_proj`" in check.reason


@pytest.mark.skipif(not FUSED, reason="transformers 4 does not fuse these experts")
def test_experts_are_read_one_by_one(examine, tmp_path, monkeypatch):
    """The stack of all experts never exists: it may be larger than the machine."""
    adapter = zoo.adapter(tmp_path / "a", moe(tmp_path / "base"), fused(), base=tmp_path / "base")
    read = []
    right = Loading.experts

    def spy(self, name, part):
        found = right(self, name, part)
        read.append(found.shape[0])
        return found

    monkeypatch.setattr(Loading, "experts", spy)
    monkeypatch.setattr(Loading, "find", lambda *_: pytest.fail("read as a whole"))
    monkeypatch.setattr("loradoctor.oracle.proof.experts.PART", 1)
    assert examine(adapter).check("merge-equivalence").status == "passed"
    assert read == [1] * (EXPERTS * 2 * 2)


@pytest.mark.skipif(not FUSED, reason="transformers 4 does not fuse these experts")
def test_some_experts_are_those_of_the_whole(tmp_path):
    moe(tmp_path / "base")
    base = build(str(tmp_path / "base"), {}, online=False, num_labels=None)
    loading = Loading(BaseWeights.at(tmp_path / "base"), base.model, {})
    for name in ("model.layers.1.mlp.experts.gate_up_proj", "model.layers.1.mlp.experts.down_proj"):
        whole = loading.read((name,))[name]
        assert loading.stacked(name) == EXPERTS == whole.shape[0]
        assert torch.equal(torch.cat([loading.experts(name, slice(0, 1)), loading.experts(name, slice(1, 4))]), whole)


def test_a_wrong_merge_of_a_parameter_is_found(examine, tmp_path, monkeypatch):
    from peft.tuners.lora.layer import ParamWrapper

    def merge(self, *args, right=ParamWrapper.merge, **keywords):
        right(self, *args, **keywords)
        self.get_param().data.mul_(1.01)

    monkeypatch.setattr(ParamWrapper, "merge", merge)
    model = zoo.llama(tmp_path / "base")
    adapter = zoo.lora(target_modules=[], target_parameters=["q_proj.weight"])
    assert examine(zoo.adapter(tmp_path / "a", model, adapter, base=tmp_path / "base")).codes == ["LD801"]


def test_units_name_what_they_change(tmp_path):
    from tests.merge.test_merged import prepared

    adapter = zoo.adapter(tmp_path / "a", zoo.llama(tmp_path / "base"), zoo.lora(target_modules=["q_proj"]), base=tmp_path / "base")
    assert [u.names for u in merged.units(prepared(adapter, tmp_path / "base"))] == [
        (f"model.layers.{i}.self_attn.q_proj.weight",) for i in range(2)
    ]
