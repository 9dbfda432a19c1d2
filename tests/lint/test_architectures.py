"""The tables behind the rules about target modules, held against transformers and PEFT themselves."""

from __future__ import annotations

import re

import pytest

from loradoctor import registry
from loradoctor.config import Settings
from loradoctor.lint.libraries import hub_ids
from loradoctor.lint.libraries.architectures import architecture, chosen_by_peft, data, inner_names, of_class, table, vocabulary
from loradoctor.lint.pipeline import Pipeline

SMALL: dict[str, dict[str, int | str]] = {
    "gpt2": {"n_layer": 1, "n_embd": 8, "n_head": 2},
    "llama": {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2},
    "bert": {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2},
    "t5": {"num_layers": 1, "d_model": 8, "d_kv": 4, "num_heads": 2, "feed_forward_proj": "gated-gelu"},
    "opt": {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "word_embed_proj_dim": 4},
    "mixtral": {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2},
}


@pytest.mark.parametrize("name", SMALL)
def test_every_module_of_a_model_is_in_the_table(name: str) -> None:
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    kind = architecture(name)
    assert kind is not None
    config = transformers.AutoConfig.for_model(name, **SMALL[name])
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    for module, _ in model.named_modules():
        last = module.rpartition(".")[2]
        assert not module or last.isdigit() or kind.may_match(module), f"{module} is missing"


@pytest.mark.parametrize("name", SMALL)
def test_what_an_expression_matches_is_what_peft_would_match(name: str) -> None:
    kind = architecture(name)
    assert kind is not None
    for module in kind.linear:
        assert kind.matches_expression(r".*\." + module.rpartition(".")[2]) or "." not in module
    assert kind.matches_expression(r".*\.no_such_layer") is False


@pytest.mark.parametrize("pattern", [r"(.*)*q", r"(a+)+", r".*.*.*.*q", r"(a", r"x{1,9}"])
def test_an_expression_that_could_run_for_ever_or_is_none_is_not_tried(pattern: str) -> None:
    kind = architecture("llama")
    assert kind is not None
    assert kind.matches_expression(pattern) is None


def test_names_are_compared_as_peft_compares_them() -> None:
    kind = architecture("llama")
    assert kind is not None
    assert kind.may_match("q_proj")
    assert kind.may_match("self_attn.q_proj")
    assert kind.may_match("model.layers.31.self_attn.q_proj")
    assert not kind.may_match("proj")
    assert not kind.may_match("attn.q_proj")


def test_experts_that_were_modules_before_are_still_names() -> None:
    kind = architecture("mixtral")
    assert kind is not None
    assert kind.may_match("w1")
    assert "w1" not in kind.in_blocks


def test_attention_comes_first_among_the_names_of_a_layer() -> None:
    kind = architecture("llama")
    assert kind is not None
    assert kind.in_blocks == ["k_proj", "o_proj", "q_proj", "v_proj", "down_proj", "gate_proj", "up_proj"]


def test_peft_chooses_for_the_architectures_it_knows() -> None:
    peft_utils = pytest.importorskip("peft.utils.constants")
    newest = set(peft_utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING)
    chosen = chosen_by_peft("LoraConfig")
    assert chosen is not None
    assert {"llama", "gpt2"} <= chosen
    assert newest <= chosen, "an older PEFT knows more than the table: write it again"
    assert chosen_by_peft("PromptTuningConfig") is None


def test_a_class_tells_its_architecture() -> None:
    assert of_class("T5ForConditionalGeneration") == "t5"
    assert of_class("AutoModelForCausalLM") is None


def test_every_class_and_every_repository_leads_to_a_table() -> None:
    assert set(data()["classes"].values()) <= set(table())
    assert set(hub_ids.exact().values()) <= set(table())


def test_a_family_agrees_with_every_repository_that_is_named_exactly() -> None:
    guesses = {name: hub_ids.families(name) for name in hub_ids.exact()}
    assert {name: kind for name, kind in guesses.items() if kind not in (None, hub_ids.exact()[name])} == {}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gpt2", "gpt2"),
        ("openai-community/gpt2-xl", "gpt2"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama"),
        ("unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit", "llama"),
        ("TheBloke/Mistral-7B-Instruct-v0.2-GPTQ", "mistral"),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "qwen2"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3"),
        ("google/flan-t5-xxl", "t5"),
        ("bigscience/mt0-large", "mt5"),
        ("hfl/chinese-roberta-wwm-ext", "bert"),
        ("microsoft/phi-2", "phi"),
        ("microsoft/deberta-v3-base", "deberta-v2"),
        ("openai/whisper-large-v3-turbo", "whisper"),
    ],
)
def test_a_repository_has_an_architecture(name: str, kind: str) -> None:
    assert hub_ids.architecture_of(name) == kind
    assert architecture(kind) is not None


@pytest.mark.parametrize(
    "name",
    [
        "./gpt2",
        "/models/gpt2",
        "runs/last/gpt2",
        "Llama-2-7b-hf",
        "Qwen/Qwen-7B-Chat",
        "Qwen/Qwen2-57B-A14B",
        "THUDM/chatglm3-6b",
        "unsloth/Phi-4",
        "microsoft/Phi-3-small-8k-instruct",
        "someone/Llama-3.1-8B-poems",
        "",
        "/",
    ],
)
def test_a_name_that_does_not_decide_it_has_none(name: str) -> None:
    assert hub_ids.architecture_of(name) is None


PROGRAM = """
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Blip2ForConditionalGeneration
{before}
def adapted():
    base = {base}
    return get_peft_model(base, LoraConfig(lora_alpha=8, target_modules={targets}, task_type="CAUSAL_LM"))
"""
LLAMA = 'AutoModelForCausalLM.from_pretrained("meta-llama/Llama-2-7b-hf")'


def codes(base: str = LLAMA, targets: str = '["c_attn"]', before: str = "") -> list[str]:
    """What the rules about target modules say of a small program."""
    rules = tuple(r for r in registry.family("lint") if r.code in ("LD402", "LD403", "LD404"))
    text = PROGRAM.format(base=base, targets=targets, before=before)
    return [d.code for d in Pipeline(Settings(), rules=rules).examine("example.py", text.encode()).diagnostics]


def test_the_program_has_the_bug() -> None:
    assert codes() == ["LD404"]


def test_an_architecture_whose_classes_are_replaced_has_any_names() -> None:
    assert codes(before="import mine, transformers\ntransformers.models.llama.modeling_llama.LlamaAttention = mine.Attention\n") == []
    assert codes(before="import mine, transformers\ntransformers.models.llama.modeling_llama.LlamaAttention.forward = mine.f\n") == ["LD404"]


def test_a_model_over_any_language_model_has_any_names() -> None:
    assert codes('Blip2ForConditionalGeneration.from_pretrained("Salesforce/blip2-flan-t5-xl")', '["q", "v"]') == []


def test_one_cause_is_one_finding() -> None:
    assert codes(targets='"c_attn"') == ["LD402"]
    assert codes(targets='["q_proj" "k_proj"]') == ["LD403"]
    assert codes(targets='["q_proj" "k_proj", "v_proj"]') == ["LD403"]
    assert codes(targets='[".*c_attn"]') == ["LD404"]


def test_what_ties_its_embeddings() -> None:
    assert hub_ids.ties_embeddings("Qwen/Qwen2.5-0.5B-Instruct") is True
    assert hub_ids.ties_embeddings("Qwen/Qwen2.5-7B-Instruct") is False
    assert hub_ids.ties_embeddings("someone/model") is None


def test_names_are_names() -> None:
    assert {"q_proj", "c_attn", "query_key_value"} <= vocabulary()
    assert {"q_proj", "self_attn"} <= vocabulary() | inner_names()
    assert not [name for name in vocabulary() if not re.fullmatch(r"[\w-]+|#", name)]
