"""A model in memory."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model

from loradoctor.merge.live import adapter_effect, merge_equivalence
from tests.oracle import zoo

pytestmark = pytest.mark.filterwarnings("ignore")

INPUTS = {"input_ids": torch.arange(8)[None]}


def trained(tmp_path, config=None, **base):
    return zoo.train(get_peft_model(zoo.llama(tmp_path / "base", **base), config or zoo.lora()))


def snapshot(model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return state, [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]


def assert_same(model, before):
    state, training, gradients = before
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert [m.training for m in model.modules()] == training
    assert [p.requires_grad for p in model.parameters()] == gradients


def test_a_trained_adapter_is_proven_and_the_model_left_alone(tmp_path):
    model = trained(tmp_path).train()
    before = snapshot(model)
    check = merge_equivalence(model)
    assert check.status == "passed", check
    assert check.measured <= check.bound
    assert_same(model, before)


def test_a_fresh_adapter_proves_nothing(tmp_path):
    model = get_peft_model(zoo.llama(tmp_path / "base"), zoo.lora())
    assert merge_equivalence(model).status == "vacuous"


def test_a_fresh_dora_adapter_proves_nothing_either(tmp_path):
    model = get_peft_model(zoo.llama(tmp_path / "base"), zoo.lora(use_dora=True))
    assert merge_equivalence(model).status == "vacuous"


def test_tied_target_fails(tmp_path):
    model = trained(tmp_path, zoo.lora(target_modules=["lm_head"]), tie_word_embeddings=True)
    assert merge_equivalence(model).status == "failed"


def test_replicated_layers_fail(tmp_path):
    assert merge_equivalence(trained(tmp_path, zoo.lora(layer_replication=[[0, 2], [0, 2]]))).status == "failed"


def test_half_precision_model(tmp_path):
    assert merge_equivalence(trained(tmp_path, dtype=torch.bfloat16)).status == "passed"


def test_two_active_adapters(tmp_path):
    model = trained(tmp_path)
    model.add_adapter("second", zoo.lora(r=2))
    model.base_model.set_adapter(["default", "second"])
    zoo.train(model)
    assert merge_equivalence(model).status == "passed"


def test_a_merged_model_is_not_run(tmp_path):
    model = trained(tmp_path)
    model.merge_adapter()
    assert merge_equivalence(model).status == "not-run"
    with pytest.raises(ValueError, match="unmerge it first"):
        adapter_effect(model, INPUTS)


def test_a_model_without_adapter_is_refused(tmp_path):
    model = zoo.llama(tmp_path / "base")
    with pytest.raises(TypeError, match="has no adapter"):
        merge_equivalence(model)
    with pytest.raises(TypeError, match="not a `PeftModel`"):
        adapter_effect(model, INPUTS)


@pytest.mark.parametrize("training", [True, False])
def test_effect_of_a_trained_adapter(tmp_path, training):
    model = trained(tmp_path, zoo.lora(lora_dropout=0.5)).train(training)
    before = snapshot(model)
    first, second = adapter_effect(model, INPUTS), adapter_effect(model, INPUTS)
    assert first == second > 1e-3
    assert_same(model, before)


def test_effect_of_a_fresh_adapter_is_zero(tmp_path):
    assert adapter_effect(get_peft_model(zoo.llama(tmp_path / "base"), zoo.lora()), INPUTS) == 0.0


def test_effect_leaves_a_frozen_adapter_frozen(tmp_path):
    from peft import PeftModel

    trained(tmp_path).save_pretrained(tmp_path / "adapter")
    model = PeftModel.from_pretrained(zoo.llama(tmp_path / "base"), tmp_path / "adapter")
    adapter_effect(model, INPUTS)
    assert not any(p.requires_grad for p in model.parameters())


def test_effect_with_labels_compares_logits(tmp_path):
    inputs = {**INPUTS, "labels": INPUTS["input_ids"]}
    assert adapter_effect(trained(tmp_path), inputs) == adapter_effect(trained(tmp_path), INPUTS)


def test_effect_of_prompt_learning(tmp_path):
    from peft import PromptTuningConfig

    model = get_peft_model(zoo.llama(tmp_path / "base"), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    assert adapter_effect(model, INPUTS) > 0
