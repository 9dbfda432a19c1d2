"""Methods other than LoRA: their names are repaired alike, and the removed one becomes its successor."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file

from .test_catalogue import FILE, load, logits, repaired

TARGETS = ["q_proj", "v_proj", "up_proj"]


@pytest.fixture
def adapter(tmp_path):
    """A function that saves a trained adapter of any method."""
    from catalogue import models

    def make(config):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            models.adapt(config).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
        return tmp_path / "adapter"

    return make


def configs():
    import peft

    return {
        "ADALORA": peft.AdaLoraConfig(target_modules=TARGETS, init_r=4, target_r=2, total_step=100, task_type="CAUSAL_LM"),
        "IA3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
        "LOHA": peft.LoHaConfig(r=4, target_modules=TARGETS, task_type="CAUSAL_LM"),
        "LOKR": peft.LoKrConfig(r=2, target_modules=TARGETS, task_type="CAUSAL_LM"),
        "OFT": peft.OFTConfig(r=8, oft_block_size=0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        "VERA": peft.VeraConfig(r=4, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM"),
        "LN_TUNING": peft.LNTuningConfig(target_modules=["input_layernorm"], task_type="CAUSAL_LM"),
        "TRAINABLE_TOKENS": peft.TrainableTokensConfig(token_indices=[1, 5], target_modules=["embed_tokens"], task_type="CAUSAL_LM"),
    }


BROKEN = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "parallel": lambda name: f"module.{name}",
    "nested": lambda name: f"base_model.model.{name}" if name.startswith("base_model.model.") else name,
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("method", ["ADALORA", "IA3", "LOHA", "LOKR", "OFT", "VERA", "LN_TUNING", "TRAINABLE_TOKENS"])
def test_names_of_every_method_are_repaired(method, how, adapter, bases, tmp_path):
    from catalogue import models

    directory = adapter(configs()[method])
    healthy, answers = load_file(directory / FILE), logits(load(directory))
    models.rename(directory, BROKEN[how])
    new, _ = repaired(directory, bases(), tmp_path, proved=False)
    found = load_file(new / FILE)
    assert found.keys() == healthy.keys()
    assert all(torch.equal(found[k], healthy[k]) for k in healthy)
    assert torch.equal(logits(load(new)), answers)


@pytest.mark.parametrize("init", [True, "bat"])
def test_the_removed_bone_becomes_miss(init, adapter, bases, tmp_path):
    """PEFT 0.17's BONE and 0.21's MISS give the same outputs for these tensors to the last bit; only the names differ."""
    import peft
    from catalogue import models

    directory = adapter(peft.MissConfig(r=4, init_weights=init, target_modules=TARGETS, task_type="CAUSAL_LM"))
    answers = logits(load(directory))
    models.rename(directory, lambda name: name.replace(".miss_", ".bone_"))
    models.setting(directory, peft_type="BONE")
    new, _ = repaired(directory, bases(), tmp_path, proved=False)
    assert json.loads((new / "adapter_config.json").read_text())["peft_type"] == "MISS"
    assert torch.equal(logits(load(new)), answers)


def test_prompts_have_no_prefix_to_miss(adapter):
    import peft

    from .test_wishes import plan_of

    directory = adapter(peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    assert plan_of(directory).status == "nothing-to-do"
