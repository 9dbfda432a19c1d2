"""mlx-lm's adapter directories: written as `mx.save_safetensors` does, computed as `LoRALinear.__call__` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.converting import (
    assert_same,
    converted,
    drawn,
    llama,
    loaded,
    output,
    plans,
    put,
    refused,
    saved,
    torch,
    with_updates,
)

MODULES = [f"model.layers.{i}.{m}" for i in range(2) for m in ("self_attn.q_proj", "mlp.down_proj")]
CONFIG = {"fine_tune_type": "lora", "model": "org/base", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 20.0, "dropout": 0.1}}


def adapter(to: Path, model: Any, *, scale: float = 20.0, kind: str = "lora", modules: list[str] = MODULES) -> tuple[Path, dict[str, Any]]:
    torch.manual_seed(1)
    tensors: dict[str, Any] = {}
    for module in modules:
        rows, columns = model.get_submodule(module).weight.shape
        tensors |= {f"{module}.lora_a": drawn(columns, 4), f"{module}.lora_b": drawn(4, rows)}
        if kind == "dora":
            tensors[f"{module}.m"] = model.get_submodule(module).weight.detach().norm(dim=1) * 1.3
    config = {**CONFIG, "fine_tune_type": kind, "lora_parameters": {"rank": 4, "scale": scale, "dropout": 0.0}}
    return put(to, "adapters.safetensors", tensors, config), tensors


@pytest.mark.parametrize("scale", [20.0, 0.1, 1 / 3])
def test_lora_is_the_same_function(tmp_path: Path, scale: float) -> None:
    model = llama()
    source, tensors = adapter(tmp_path / "mlx", model, scale=scale)
    result = converted(source, tmp_path / "peft")[""]
    merged = with_updates(model, {m: scale * (tensors[f"{m}.lora_a"] @ tensors[f"{m}.lora_b"]).T for m in MODULES})
    assert_same(output(loaded(model, result)), output(merged), output(model))


def test_dora_is_the_same_function(tmp_path: Path) -> None:
    model = llama()
    source, tensors = adapter(tmp_path / "mlx", model, kind="dora")
    updates = {}
    for module in MODULES:
        weight = model.get_submodule(module).weight.detach()
        adapted = weight + 20.0 * (tensors[f"{module}.lora_a"] @ tensors[f"{module}.lora_b"]).T
        updates[module] = (tensors[f"{module}.m"] / adapted.norm(dim=1))[:, None] * adapted - weight
    result = converted(source, tmp_path / "peft")[""]
    assert json.loads((result / "adapter_config.json").read_text())["use_dora"] is True
    assert_same(output(loaded(model, result)), output(with_updates(model, updates)), output(model))


def test_an_embedding_is_the_same_function(tmp_path: Path) -> None:
    model = llama()
    source = put(tmp_path / "mlx", "adapters.safetensors", {}, CONFIG)
    first, second = drawn(40, 4), drawn(4, 32)
    put(source, "adapters.safetensors", {"model.embed_tokens.lora_a": first, "model.embed_tokens.lora_b": second})
    result = converted(source, tmp_path / "peft")[""]
    merged = with_updates(model, {"model.embed_tokens": 20.0 * first @ second})
    assert_same(output(loaded(model, result)), output(merged), output(model))


def test_alpha_is_the_factor_times_the_rank(tmp_path: Path) -> None:
    source, _ = adapter(tmp_path / "mlx", llama(), scale=2.5)
    (plan,) = plans(source).values()
    assert (plan.config["r"], plan.config["lora_alpha"]) == (4, 10)
    assert plan.config["base_model_name_or_path"] == "org/base"
    assert {s.field for s in plan.config_steps} >= {"lora_parameters", "peft_type", "r", "lora_alpha"}


def test_names_that_transformers_may_not_share_need_the_base(tmp_path: Path) -> None:
    module = "model.layers.0.block_sparse_moe.gate"
    source = put(tmp_path / "mlx", "adapters.safetensors", {f"{module}.lora_a": drawn(32, 4), f"{module}.lora_b": drawn(4, 8)}, CONFIG)
    assert "otherwise than mlx-lm" in refused(source)


def test_a_module_that_the_base_lacks_is_refused(tmp_path: Path) -> None:
    base = saved(llama(num_hidden_layers=1), tmp_path / "base")
    source, _ = adapter(tmp_path / "mlx", llama())
    assert "the base has no module `model.layers.1" in refused(source, base)


def test_stacked_experts_are_refused(tmp_path: Path) -> None:
    module = "model.layers.0.mlp.switch_mlp.up_proj"
    tensors = {f"{module}.lora_a": drawn(8, 4, 32), f"{module}.lora_b": drawn(8, 48, 4)}
    assert "stacked experts" in refused(put(tmp_path / "mlx", "adapters.safetensors", tensors, CONFIG))


def test_without_a_factor_nothing_is_guessed(tmp_path: Path) -> None:
    source, _ = adapter(tmp_path / "mlx", llama())
    (source / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "alpha": 16}}))
    assert "lora_parameters.scale" in refused(source)


def test_a_peft_config_beside_peft_s_file_name_says_the_factor(tmp_path: Path) -> None:
    model = llama()
    _, tensors = adapter(tmp_path / "mlx", model)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "down_proj"]}
    result = converted(put(tmp_path / "a", "adapter_model.safetensors", tensors, config), tmp_path / "peft")[""]
    merged = with_updates(model, {m: 3 * (tensors[f"{m}.lora_a"] @ tensors[f"{m}.lora_b"]).T for m in MODULES})
    assert_same(output(loaded(model, result)), output(merged), output(model))
