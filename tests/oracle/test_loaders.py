"""What each loader makes of an adapter: the table on the card."""

from __future__ import annotations

import peft
import pytest
import torch
import transformers

from tests.oracle import zoo

pytestmark = pytest.mark.filterwarnings("ignore")

PEFT, SECOND, TRANSFORMERS = "PeftModel.from_pretrained", "PeftModel.load_adapter", "transformers load_adapter"
SAVES_BIASES = tuple(map(int, peft.__version__.split(".")[:2])) >= (0, 21)
FIVE = int(transformers.__version__.split(".")[0]) >= 5
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64,
    "max_position_embeddings": 64,
}  # fmt: skip


def rows(result):
    return {row["loader"]: row for row in result.report.subjects[0].facts["loaders"]}


def statuses(result):
    return {name: row["status"] for name, row in rows(result).items() if name in (PEFT, SECOND, TRANSFORMERS)}


def every(status):
    return dict.fromkeys((PEFT, SECOND, TRANSFORMERS), status)


def llava(directory=None):
    """A text model and an image encoder in one, of different widths."""
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**TEXT),
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, projection_dim=16
        ),
        image_token_index=63,
    )
    model = transformers.LlavaForConditionalGeneration(config)
    if directory is not None:
        model.save_pretrained(directory)
    return model


def mixtral(directory):
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**TEXT, num_local_experts=2, num_experts_per_tok=1))
    model.save_pretrained(directory)
    return model


def test_partly_loaded_counts_what_the_file_has_and_names_the_first(examine, good, tmp_path):
    path = zoo.edited(good, tmp_path / "a", lambda k: None if "layers.1.self_attn.v_proj" in k else k)
    found = rows(examine(path))
    assert statuses(examine(path)) == every("partial")
    assert all((row["loaded"], row["of"]) == (10, 10) for name, row in found.items() if name != "diffusers load_lora_weights")
    assert "2 missing, first `base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight`" in found[PEFT]["reason"]


def test_an_adapter_name_in_the_keys_loads_under_that_name_only(examine, good, tmp_path):
    path = zoo.edited(good, tmp_path / "a", lambda k: k.replace(".weight", ".default.weight"))
    found = statuses(examine(path))
    assert (found[SECOND], found[TRANSFORMERS]) == ("none", "none")


def test_a_missing_prefix_is_no_obstacle_for_transformers(examine, good, tmp_path):
    path = zoo.edited(good, tmp_path / "a", lambda k: k.removeprefix("base_model.model."))
    result = examine(path)
    assert statuses(result) == {PEFT: "none", SECOND: "none", TRANSFORMERS: "full"}
    assert "`load_adapter` of a transformers model takes it as it is" in result.only().help


def test_another_shape_is_named_once(examine, base, tmp_path):
    path = zoo.adapter(tmp_path / "a", zoo.llama(tmp_path / "other", hidden_size=64), zoo.lora(), base=base)
    result = examine(path)
    assert statuses(result) == every("raises")
    assert "of another shape, first `base_model" in rows(result)[PEFT]["reason"]
    assert "\n" not in rows(result)[TRANSFORMERS]["reason"]


def test_weights_of_the_base_in_the_file_are_written_over_it(examine, good, tmp_path):
    path = zoo.edited(good, tmp_path / "a")
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "adapter_model.safetensors")
    save_file({**tensors, "base_model.model.model.norm.weight": torch.ones(32)}, path / "adapter_model.safetensors")
    found = rows(examine(path))
    for name in (PEFT, SECOND, TRANSFORMERS):
        assert (found[name]["status"], found[name]["loaded"]) == ("full", 13)
        assert "1 written over the base" in found[name]["reason"]


def test_tied_embeddings_and_saved_modules(examine, tmp_path):
    model = zoo.llama(tmp_path / "tied", tie_word_embeddings=True)
    config = zoo.lora(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    assert statuses(examine(zoo.adapter(tmp_path / "a", model, config, base=tmp_path / "tied"))) == every("full")


def test_a_resized_vocabulary_raises_everywhere(examine, base, tmp_path):
    model = zoo.llama(tmp_path / "other")
    model.resize_token_embeddings(70)
    config = zoo.lora(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    result = examine(zoo.adapter(tmp_path / "a", model, config, base=base))
    assert statuses(result) == every("raises")
    assert "[70, 32] in the file, [64, 32] wanted" in rows(result)[PEFT]["reason"]


def test_a_bias_beside_another_adapter(examine, base, tmp_path):
    config = zoo.lora(target_modules=["q_proj"], bias="all")
    found = statuses(examine(zoo.adapter(tmp_path / "a", zoo.llama(tmp_path / "other", attention_bias=True), config, base=base)))
    assert set(found) == {PEFT, SECOND, TRANSFORMERS}


def test_prompts_are_no_adapter_of_transformers(examine, base, tmp_path):
    from peft import PromptTuningConfig

    config = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    found = statuses(examine(zoo.adapter(tmp_path / "a", zoo.llama(tmp_path / "other"), config, base=base)))
    assert (found[PEFT], found[TRANSFORMERS]) == ("full", "raises")


def test_a_config_that_peft_refuses_raises_everywhere(examine, good, tmp_path):
    path = zoo.edited(good, tmp_path / "a", config={"task_type": "CHAT"})
    assert statuses(examine(path)) == every("raises")


def test_without_a_base_nothing_was_run_and_the_card_has_no_table(examine, good):
    from loradoctor.report.text import Text

    result = examine(good, base="none")
    assert statuses(result) == every("not-run")
    assert "transformers load_adapter" not in Text().render(result.report)


def test_the_table_on_the_card(examine, good, tmp_path):
    from loradoctor.report.text import Text

    path = zoo.edited(good, tmp_path / "a", lambda k: k.removeprefix("base_model.model."))
    lines = [line.split() for line in Text().render(examine(path).report).splitlines()]
    assert ["transformers", "load_adapter", "full", "12", "of", "12", "tensors"] in lines
    assert any(line[:6] == ["PeftModel.from_pretrained", "none", "0", "of", "12", "tensors;"] for line in lines)


def test_an_image_model_trained_with_the_task_of_a_language_model(examine, tmp_path):
    path = zoo.adapter(tmp_path / "a", llava(tmp_path / "llava"), zoo.lora(target_modules=["q_proj", "v_proj"]), base=tmp_path / "llava")
    result = examine(path)
    assert result.codes == []
    assert statuses(result) == every("full")
    assert "LlavaForConditionalGeneration" in result.check("loads").reason


@pytest.mark.skipif(not FIVE, reason="the names changed with transformers 5")
def test_names_of_an_older_release_are_converted(examine, tmp_path):
    new = zoo.adapter(tmp_path / "new", llava(tmp_path / "llava"), zoo.lora(target_modules=["q_proj", "v_proj"]), base=tmp_path / "llava")

    def older(key):
        return key.replace("model.model.language_model.", "model.language_model.model.").replace(
            "model.model.vision_tower.", "model.vision_tower.vision_model."
        )

    result = examine(zoo.edited(new, tmp_path / "old", older))
    assert result.codes == []
    assert statuses(result) == every("full")


@pytest.mark.skipif(not FIVE, reason="the names changed with transformers 5")
def test_a_pattern_of_an_older_release_matches_nothing(examine, tmp_path):
    config = zoo.lora(target_modules=r".*language_model.*(q_proj|v_proj)")
    new = zoo.adapter(tmp_path / "new", llava(tmp_path / "llava"), config, base=tmp_path / "llava")
    change = {"target_modules": r"language_model\.model\..*(q_proj|v_proj)"}
    found = examine(zoo.edited(new, tmp_path / "old", lambda k: k.replace("model.language_model.", "language_model.model."), change)).only()
    assert found.code == "LD604"
    assert "the pattern in `target_modules` matches nothing" in found.help


def test_a_text_adapter_on_a_text_and_image_model(examine, tmp_path):
    llava(tmp_path / "llava")
    text = zoo.llama(tmp_path / "text", num_hidden_layers=3)
    found = examine(zoo.adapter(tmp_path / "a", text, zoo.lora(target_modules=["q_proj", "v_proj"]), base=tmp_path / "llava")).only()
    assert (found.code, found.data["added"]) == ("LD604", "language_model." if FIVE else found.data["added"])


def test_a_text_and_image_adapter_on_the_text_model(examine, tmp_path):
    zoo.llama(tmp_path / "text", num_hidden_layers=3)
    found = examine(zoo.adapter(tmp_path / "a", llava(), zoo.lora(target_modules=["q_proj", "v_proj"]), base=tmp_path / "text")).only()
    assert found.code == "LD604"
    assert (found.data["count"], found.data["tensors"]) == (12, 20)


def test_an_image_encoder_that_was_not_trained_is_no_collision_of_names(examine, tmp_path):
    path = zoo.adapter(tmp_path / "a", llava(tmp_path / "llava"), zoo.lora(target_modules=["q_proj", "v_proj"]), base=tmp_path / "llava")
    found = examine(zoo.edited(path, tmp_path / "b", lambda k: None if "vision_tower" in k else k)).only()
    assert (found.code, found.data["count"]) == ("LD606", 8)


def per_expert(source, target, names):
    """The adapter with one LoRA per expert, as transformers 4 named them."""
    from safetensors.torch import load_file, save_file

    path = zoo.edited(source, target, config={"target_modules": ["q_proj", *names]})
    torch.manual_seed(0)
    tensors = load_file(path / "adapter_model.safetensors")
    for layer in range(3):
        for expert in range(2):
            for name in names:
                read, written = (48, 32) if name == "w2" else (32, 48)
                stem = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                tensors[f"{stem}.lora_A.weight"] = torch.randn(4, read) / 10
                tensors[f"{stem}.lora_B.weight"] = torch.randn(written, 4) / 10
    save_file(tensors, path / "adapter_model.safetensors")
    return path


def test_experts_one_by_one(examine, tmp_path):
    good = zoo.adapter(tmp_path / "good", mixtral(tmp_path / "mixtral"), zoo.lora(target_modules=["q_proj"]), base=tmp_path / "mixtral")
    result = examine(per_expert(good, tmp_path / "a", ["w1", "w2", "w3"]))
    found = rows(result)
    assert (found[PEFT]["status"], found[PEFT]["loaded"], found[PEFT]["of"]) == ("full", 42, 42)
    assert found[TRANSFORMERS]["status"] == "full"


@pytest.mark.skipif(not FIVE, reason="experts are fused from transformers 5 on")
def test_half_of_a_fused_expert(examine, tmp_path):
    good = zoo.adapter(tmp_path / "good", mixtral(tmp_path / "mixtral"), zoo.lora(target_modules=["q_proj"]), base=tmp_path / "mixtral")
    result = examine(per_expert(good, tmp_path / "a", ["w1"]))
    assert result.only().code == "LD617"
    assert "w1" in rows(result)[PEFT]["reason"]


@pytest.mark.skipif(not SAVES_BIASES, reason="peft before 0.21 does not look for the biases that it does not save")
def test_biases_that_an_older_peft_forgot_are_information(examine, base, tmp_path):
    from safetensors.torch import load_file, save_file

    model = zoo.llama(tmp_path / "biased", attention_bias=True)
    path = zoo.adapter(tmp_path / "a", model, zoo.lora(target_modules=["q_proj"], bias="lora_only"), base=tmp_path / "biased")
    file = path / "adapter_model.safetensors"
    save_file({k: v.clone() for k, v in load_file(file).items() if not k.endswith(".bias")}, file)
    result = examine(path)
    found = result.only()
    assert (found.code, found.severity.value, found.data["cause"], found.data["count"]) == ("LD606", "info", "biases-unsaved", 2)
    assert rows(result)[PEFT]["status"] == "full"
    assert "2 biases left as the base has them" in rows(result)[PEFT]["reason"]
    assert result.check("merge-equivalence").status == "passed"
