"""What is known of well-known models' vocabularies, against the configurations that transformers has for them."""

from __future__ import annotations

import pytest
import transformers

from loradoctor.lint.libraries.vocabularies import vocabulary


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gpt2", "GPT2Config"),
        ("meta-llama/Llama-2-7b-hf", "LlamaConfig"),
        ("mistralai/Mistral-7B-v0.1", "MistralConfig"),
        ("google/gemma-2b", "GemmaConfig"),
        ("google/gemma-2-9b", "Gemma2Config"),
        ("tiiuae/falcon-7b", "FalconConfig"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2Config"),
        ("Qwen/Qwen3-0.6B", "Qwen3Config"),
        ("microsoft/phi-2", "PhiConfig"),
        ("microsoft/Phi-3-mini-4k-instruct", "Phi3Config"),
        ("facebook/opt-350m", "OPTConfig"),
        ("bigscience/bloom-560m", "BloomConfig"),
        ("google/flan-t5-base", "T5Config"),
    ],
)
def test_the_rows_are_those_of_the_configuration(name: str, config: str) -> None:
    known = vocabulary(name)
    assert known is not None
    assert known.rows == getattr(transformers, config)().vocab_size
    assert known.tokens <= known.rows


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen3-Embedding-0.6B",  # as many rows as tokens, other than its siblings
        "microsoft/phi-4",
        "meta-llama/Llama-3.2-11B-Vision",
        "teknium/OpenHermes-2.5-Mistral-7B",  # has the tokens of the chat format
        "tiiuae/Falcon3-7B-Base",
        "./llama-2-7b-tuned",
        "",
        None,
    ],
)
def test_relatives_that_differ_are_unknown(name: str | None) -> None:
    assert vocabulary(name) is None


def test_a_mirror_may_have_a_padding_token_of_its_own() -> None:
    official, mirror = vocabulary("meta-llama/Llama-2-7b-hf"), vocabulary("NousResearch/Llama-2-7b-hf")
    assert official is not None
    assert mirror is not None
    assert (official.unpadded, mirror.unpadded) == (True, False)
