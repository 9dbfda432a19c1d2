"""How the adapter fits the base: what PEFT loads, and the one reason when it does not."""

from __future__ import annotations

import pytest

from tests.oracle import zoo

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_sound_adapter_loads_fully(examine, good):
    result = examine(good)
    assert result.codes == []
    loads = result.check("loads")
    assert (loads.status, loads.reason) == ("passed", "`PeftModel.from_pretrained` on LlamaForCausalLM: 12 of 12 tensors")


def test_the_card_says_how_it_loads_and_with_what(examine, good, base):
    facts = examine(good).report.subjects[0].facts
    assert [(row["loader"], row["status"], row["loaded"], row["of"]) for row in facts["loaders"]] == [
        ("PeftModel.from_pretrained", "full", 12, 12),
        ("PeftModel.load_adapter", "full", 12, 12),
        ("transformers load_adapter", "full", 12, 12),
        ("diffusers load_lora_weights", "not-run", 0, 12),
    ]
    assert facts["base_path"] == str(base.resolve())
    assert set(facts["torch_side"]) == {"python", "torch", "transformers", "peft"}


def test_backbone_adapter_on_the_model_with_a_head(examine, good, tmp_path):
    path = zoo.edited(good, tmp_path / "a", lambda k: k.replace("model.model.layers", "model.layers"))
    found = examine(path).only()
    assert found.code == "LD604"
    assert found.data["added"] == "model."
    assert found.data["removed"] == ""
    assert "AutoModel" in found.help


def test_head_adapter_keys_with_one_component_too_many(examine, good, tmp_path):
    path = zoo.edited(good, tmp_path / "a", lambda k: k.replace("model.layers", "model.language_model.layers"))
    found = examine(path).only()
    assert (found.code, found.data["removed"]) == ("LD604", "language_model.")


def test_keys_without_peft_prefix_are_reported_without_a_base(examine, good, tmp_path):
    path = zoo.edited(good, tmp_path / "a", lambda k: k.removeprefix("base_model.model."))
    result = examine(path, base="none")
    assert result.codes == ["LD604"]
    assert result.check("merge-equivalence").status == "vacuous"


def test_keys_without_peft_prefix_are_reported_once_with_a_base(examine, good, tmp_path):
    path = zoo.edited(good, tmp_path / "a", lambda k: k.removeprefix("base_model.model."))
    assert examine(path).codes == ["LD604"]


def test_missing_tensors_are_counted_as_peft_counts_them(examine, good, tmp_path):
    path = zoo.edited(good, tmp_path / "a", lambda k: None if "layers.1.self_attn.v_proj" in k else k)
    result = examine(path)
    found = result.only()
    assert (found.code, found.data["count"]) == ("LD606", 2)
    assert result.check("loads").status == "failed"
    assert result.check("merge-equivalence").status == "vacuous"


def test_shifted_layers_are_missing_tensors_with_a_hint(examine, good, tmp_path):
    def shift(key):
        return key.replace("layers.1.", "layers.2.").replace("layers.0.", "layers.1.")

    found = examine(zoo.edited(good, tmp_path / "a", shift)).only()
    assert found.code == "LD606"
    assert found.data["shifted"] is True


@pytest.mark.parametrize(
    ("change", "cause"),
    [({"hidden_size": 64}, "shapes"), ({"num_hidden_layers": 4}, "deeper"), ({"num_hidden_layers": 1}, "shallower")],
)
def test_another_size_of_the_same_architecture(examine, base, tmp_path, change, cause):
    model = zoo.llama(tmp_path / "other", **change)
    path = zoo.adapter(tmp_path / "a", model, zoo.lora(), base=base)
    result = examine(path)
    assert (result.only().code, result.only().data["cause"]) == ("LD615", cause)
    assert result.check("merge-equivalence").status == "vacuous"


def test_another_architecture(examine, base, tmp_path):
    model = zoo.gpt2(tmp_path / "gpt2")
    path = zoo.adapter(tmp_path / "a", model, zoo.lora(target_modules=["c_attn"]), base=base)
    found = examine(path).only()
    assert (found.code, found.data["cause"], found.data["absent"]) == ("LD615", "architecture", 2)


def test_extra_rows_in_the_embeddings_name_the_resize(examine, base, tmp_path):
    model = zoo.llama(tmp_path / "other")
    model.resize_token_embeddings(70)
    config = zoo.lora(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    found = examine(zoo.adapter(tmp_path / "a", model, config, base=base)).only()
    assert found.code == "LD616"
    assert "resize_token_embeddings(70)" in found.help


def test_what_peft_saves_after_a_resize_is_sound_on_the_resized_base(examine, tmp_path):
    model = zoo.llama(tmp_path / "other")
    model.resize_token_embeddings(70)
    model.save_pretrained(tmp_path / "resized")
    config = zoo.lora(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    assert examine(zoo.adapter(tmp_path / "a", model, config, base=tmp_path / "resized")).codes == []


def test_any_other_refusal_carries_pefts_reason(examine, base, tmp_path):
    good = zoo.adapter(tmp_path / "good", zoo.llama(tmp_path / "other"), zoo.lora(), base=base)
    found = examine(zoo.edited(good, tmp_path / "a", config={"init_lora_weights": "corda", "corda_config": {}})).only()
    assert found.code == "LD617"
    assert "ValueError" in found.message


def test_a_trained_token_beyond_the_vocabulary_is_named(examine, base, tmp_path):
    config = zoo.lora(target_modules=["q_proj"], trainable_token_indices=[1, 63])
    good = zoo.adapter(tmp_path / "good", zoo.llama(tmp_path / "other"), config, base=base)
    found = examine(zoo.edited(good, tmp_path / "a", config={"trainable_token_indices": [1, 999]})).only()
    assert (found.code, found.data["cause"], found.data["vocabulary"]) == ("LD530", "index", 64)


def test_everything_below_one_component_missing_is_a_collision_of_names(examine, good, tmp_path):
    path = zoo.edited(good, tmp_path / "a", lambda k: None if ".mlp." in k else k)
    found = examine(path).only()
    assert (found.code, found.data["component"]) == ("LD610", "mlp")


def test_one_target_that_was_never_saved_is_no_collision(examine, good, tmp_path):
    found = examine(zoo.edited(good, tmp_path / "a", lambda k: None if ".v_proj." in k else k)).only()
    assert found.code == "LD606"


def test_a_cause_named_by_the_files_is_not_named_again(examine, good, tmp_path):
    result = examine(zoo.edited(good, tmp_path / "a", lambda k: f"base_model.model.{k}"))
    assert result.codes == ["LD601"]
    assert result.check("loads").status == "failed"


def test_target_name_that_the_base_does_not_have(examine, good, tmp_path):
    path = zoo.edited(good, tmp_path / "a", config={"target_modules": [*zoo.TARGETS, "kk_proj"]})
    found = examine(path).only()
    assert (found.code, found.data["examples"]) == ("LD618", ["kk_proj"])


def test_a_classification_head_decides_the_number_of_labels(examine, base, tmp_path):
    model = zoo.llama(tmp_path / "other", cls="LlamaForSequenceClassification", num_labels=3)
    path = zoo.adapter(tmp_path / "a", model, zoo.lora(task_type="SEQ_CLS"), base=base)
    result = examine(path, forward=True)
    assert result.codes == []
    assert result.check("forward").status == "passed"
    assert "LlamaForSequenceClassification" in result.check("loads").reason


def test_an_adapter_of_the_backbone_is_loaded_onto_the_backbone(examine, base, tmp_path):
    model = zoo.llama(tmp_path / "other", cls="LlamaModel")
    path = zoo.adapter(tmp_path / "a", model, zoo.lora(task_type=None), base=base)
    assert examine(path).codes == []


def test_saved_embeddings_of_another_base_are_named(examine, base, tmp_path):
    config = zoo.lora(target_modules=["q_proj", "embed_tokens", "lm_head"])
    path = zoo.adapter(tmp_path / "a", zoo.llama(tmp_path / "other", seed=3), config, base=base)
    result = examine(path)
    assert result.check("loads").status == "passed"
    assert (result.only().code, result.only().data["cause"], result.only().data["count"]) == ("LD608", "other-base", 2)
    assert result.check("merge-equivalence").status == "vacuous"


def test_saved_embeddings_of_the_same_base_are_sound(examine, base, tmp_path):
    config = zoo.lora(target_modules=["q_proj", "embed_tokens", "lm_head"])
    result = examine(zoo.adapter(tmp_path / "a", zoo.llama(tmp_path / "other"), config, base=base))
    assert result.codes == []
    assert result.check("merge-equivalence").status == "passed"


def test_prompt_learning_loads_and_has_nothing_to_merge(examine, base, tmp_path):
    from peft import PromptTuningConfig

    config = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    result = examine(zoo.adapter(tmp_path / "a", zoo.llama(tmp_path / "other"), config, base=base), forward=True)
    assert result.check("loads").status == "passed"
    assert result.check("merge-equivalence").status == "not-run"
    assert result.check("forward").effect > 0
    assert [(d.code, d.severity.value) for d in result.report.diagnostics if d.code == "LD804"] == [("LD804", "info")]


def test_a_leftover_adapter_name_is_one_finding_however_it_loads(examine, good, tmp_path):
    path = zoo.edited(good, tmp_path / "a", lambda k: k.replace(".weight", ".other.weight"))
    result = examine(path)
    assert result.codes == ["LD603"]
    assert result.check("loads").status == "failed"
    assert result.check("merge-equivalence").status == "vacuous"


def test_no_module_named_by_the_config_is_imported(examine, good, tmp_path, monkeypatch):
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = zoo.edited(good, tmp_path / "a", config={"megatron_config": {"a": 1}, "megatron_core": "hostile_module"})
    assert examine(path).check("loads").status == "passed"
