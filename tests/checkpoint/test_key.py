"""Tensor names taken apart."""

from __future__ import annotations

import pytest

from loradoctor.checkpoint.key import Key, parse
from loradoctor.checkpoint.methods import METHODS

Q = "model.layers.0.self_attn.q_proj"


def one(name: str, method: str = "LORA", *, hosted: bool = True) -> Key:
    return parse([name], METHODS[method], hosted=hosted)[0]


@pytest.mark.parametrize(
    ("name", "module", "role", "problems"),
    [
        (f"base_model.model.{Q}.lora_A.weight", Q, "lora_A", ()),
        (f"base_model.model.{Q}.lora_B.bias", Q, "lora_B", ()),
        (f"base_model.model.{Q}.lora_magnitude_vector", Q, "lora_magnitude_vector", ()),
        (f"base_model.model.{Q}.lora_magnitude_vector.weight", Q, "lora_magnitude_vector", ()),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "model.embed_tokens", "lora_embedding_A", ()),
        ("base_model.model.model.embed_tokens.base_layer.weight", "model.embed_tokens", "base_layer", ()),
        ("base_model.model.lm_head.weight", "lm_head", "", ()),
        ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head", "modules_to_save", ("adapter-name",)),
        ("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", "model.embed_tokens", "trainable_tokens_delta", ()),
        (f"base_model.model.base_model.model.{Q}.lora_A.weight", Q, "lora_A", ("nested",)),
        (f"base_model.model.base_model.model.base_model.model.{Q}.lora_A.weight", Q, "lora_A", ("nested",)),
        (f"_orig_mod.base_model.model.{Q}.lora_A.weight", Q, "lora_A", ("wrapper",)),
        (f"base_model.model._orig_mod.{Q}.lora_A.weight", Q, "lora_A", ("wrapper",)),
        (f"module.base_model.model.{Q}.lora_A.weight", Q, "lora_A", ("wrapper",)),
        (f"base_model.model.module.{Q}.lora_A.weight", Q, "lora_A", ("wrapper",)),
        ("base_model.model.model.layers.0._fsdp_wrapped_module.self_attn.q_proj.lora_A.weight", Q, "lora_A", ("wrapper",)),
        ("base_model.model.model.layers.0._checkpoint_wrapped_module.self_attn.q_proj.lora_A.weight", Q, "lora_A", ("wrapper",)),
        (f"base_model.model.{Q}.lora_A.default.weight", Q, "lora_A", ("adapter-name",)),
        (f"base_model.model.{Q}.lora_magnitude_vector.default", Q, "lora_magnitude_vector", ("adapter-name",)),
        (f"{Q}.lora_A.weight", Q, "lora_A", ("no-prefix",)),
    ],
)
def test_parts_of_a_lora_key(name: str, module: str, role: str, problems: tuple[str, ...]) -> None:
    key = one(name)
    assert (key.module, key.role, key.problems) == (module, role, problems)


def test_adalora_has_no_weight_ending() -> None:
    assert one(f"base_model.model.{Q}.lora_E", "ADALORA").role == "lora_E"


def test_shadow_keeps_the_adapter_name() -> None:
    assert one("base_model.model.model.layers.0.shadow_up.default.weight", "SHADOW").problems == ()


def test_prompt_methods_have_no_prefix() -> None:
    assert one("prompt_embeddings", "PROMPT_TUNING").problems == ()


def test_a_module_called_module_is_left_alone_in_a_model_of_ones_own() -> None:
    key = one("base_model.model.module.fc.lora_A.weight", hosted=False)
    assert (key.module, key.problems) == ("module.fc", ())


def test_a_module_called_module_is_no_wrapper_when_others_lie_beside_it() -> None:
    names = ["base_model.model.module.fc.lora_A.weight", "base_model.model.head.lora_A.weight"]
    assert [k.problems for k in parse(names, METHODS["LORA"], hosted=True)] == [(), ()]
