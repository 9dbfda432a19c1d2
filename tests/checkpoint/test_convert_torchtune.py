"""torchtune's adapters: rows of q and k in the order of interleaved RoPE, DoRA's magnitude included."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from loradoctor.checkpoint.run import CheckOptions, check
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

NAMES = {
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj",
    "mlp.w1": "mlp.gate_proj",
    "mlp.w2": "mlp.down_proj",
    "mlp.w3": "mlp.up_proj",
}
CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 12,
    "target_modules": [n.rpartition(".")[2] for n in NAMES.values()],
    "base_model_name_or_path": "org/base",
}
HEADS = {"q_proj": 4, "k_proj": 2}


def interleaved(heads: int, width: int = 8) -> list[int]:
    """For every row of torchtune's q or k, the row of transformers' that it is: (x0, y0, x1, y1, …) of (x0, x1, …, y0, y1, …)."""
    return [head * width + half * width // 2 + pair for head in range(heads) for pair in range(width // 2) for half in range(2)]


def adapter(to: Path, model: Any, *, dora: bool = False, name: str = "adapter_model.pt") -> tuple[Path, dict[str, Any]]:
    """The adapter as torchtune has it, and the updates of transformers' weights that it means."""
    torch.manual_seed(1)
    tensors: dict[str, Any] = {}
    updates: dict[str, Any] = {}
    for layer in range(2):
        for tune, hub in NAMES.items():
            module = f"model.layers.{layer}.{hub}"
            weight = model.get_submodule(module).weight.detach()
            heads = HEADS.get(hub.rpartition(".")[2])
            order = interleaved(heads) if heads else list(range(len(weight)))
            a, b = drawn(4, weight.shape[1]), drawn(weight.shape[0], 4)
            key = f"layers.{layer}.{tune}"
            tensors |= {f"{key}.lora_a.weight": a, f"{key}.lora_b.weight": b}
            update = 3 * b @ a
            if dora:
                tensors[f"{key}.magnitude"] = weight[order].norm(dim=1) * torch.linspace(0.5, 2, len(weight), dtype=torch.float64)
                adapted = weight[order] + update
                update = (tensors[f"{key}.magnitude"] / adapted.norm(dim=1))[:, None] * adapted - weight[order]
            back = torch.empty_like(update)
            back[order] = update
            updates[module] = back
    return put(to, name, tensors, CONFIG), updates


@pytest.mark.parametrize("dora", [False, True])
def test_the_same_function(tmp_path: Path, *, dora: bool) -> None:
    model = llama()
    source, updates = adapter(tmp_path / "tune", model, dora=dora)
    result = converted(source, tmp_path / "peft", saved(model, tmp_path / "base"))[""]
    assert_same(output(loaded(model, result)), output(with_updates(model, updates)), output(model))


def test_the_config_that_torchtune_copies_is_enough(tmp_path: Path) -> None:
    model = llama()
    source, updates = adapter(tmp_path / "tune", model)
    model.config.save_pretrained(source)
    result = converted(source, tmp_path / "peft")[""]
    assert_same(output(loaded(model, result)), output(with_updates(model, updates)), output(model))


def test_targets_are_kept_where_they_select_the_same_modules(tmp_path: Path) -> None:
    model = llama()
    source, _ = adapter(tmp_path / "tune", model)
    (plan,) = plans(source, saved(model, tmp_path / "base")).values()
    assert plan.config["target_modules"] == CONFIG["target_modules"]


def test_targets_are_short_where_the_base_proves_them(tmp_path: Path) -> None:
    model = llama()
    source, _ = adapter(tmp_path / "tune", model)
    put(source, "adapter_model.pt", torch.load(source / "adapter_model.pt"), {**CONFIG, "target_modules": ["q_proj"]})
    (plan,) = plans(source, saved(model, tmp_path / "base")).values()
    assert plan.config["target_modules"] == sorted(n.rpartition(".")[2] for n in NAMES.values())


def torchtune_itself() -> Any:
    """torchtune's module of conversions alone: the package wants half a dozen others that it does not need."""
    spec = importlib.util.find_spec("torchtune")
    if spec is None or spec.origin is None:
        pytest.skip("torchtune is not installed")
    file = Path(spec.origin).parent / "models" / "convert_weights.py"
    found = importlib.util.spec_from_file_location("convert_weights", file)
    assert found is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_as_torchtune_reorders(tmp_path: Path) -> None:
    """Against the functions of torchtune itself: its base, its merge, its way back."""
    convert_weights = torchtune_itself()
    model = llama()
    source, _ = adapter(tmp_path / "tune", model)
    sizes = {"num_heads": 4, "num_kv_heads": 2, "dim": 32}
    adapted = torch.load(source / "adapter_model.pt")
    state = convert_weights.hf_to_tune(dict(model.state_dict()), **sizes)
    for key in [k for k in state if f"{k.removesuffix('.weight')}.lora_a.weight" in adapted]:
        stem = key.removesuffix(".weight")
        state[key] = state[key] + 3 * adapted[f"{stem}.lora_b.weight"] @ adapted[f"{stem}.lora_a.weight"]
    merged = llama()
    merged.load_state_dict(convert_weights.tune_to_hf(state, **sizes))
    result = converted(source, tmp_path / "peft", saved(model, tmp_path / "base"))[""]
    assert_same(output(loaded(model, result)), output(merged.eval()), output(model))
    exported = convert_weights.tune_to_peft_adapter_weights(adapted, **sizes)
    from safetensors.torch import load_file

    ours = load_file(result / "adapter_model.safetensors")
    assert ours.keys() == exported.keys()
    assert all(torch.equal(ours[k], exported[k]) for k in ours)


def test_without_the_head_counts_it_is_no_rename(tmp_path: Path) -> None:
    source, _ = adapter(tmp_path / "tune", llama())
    assert "order of the rows of q and k" in refused(source)


def test_rows_of_qwen_were_never_moved(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = llama()
    source, _ = adapter(tmp_path / "tune", model)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    transformers.Qwen2Config(**sizes, vocab_size=40).save_pretrained(source)
    (plan,) = plans(source).values()
    assert not plan.refusals
    assert not any(step.transforms or step.sources[0].transforms for step in plan.tensors)


def test_an_architecture_of_its_own_order_is_refused(tmp_path: Path) -> None:
    source, _ = adapter(tmp_path / "tune", llama())
    (source / "config.json").write_text('{"model_type": "phi3"}')
    assert "`phi3`" in refused(source)


def test_alpha_is_not_guessed(tmp_path: Path) -> None:
    source, _ = adapter(tmp_path / "tune", llama(), name="adapter_0.pt")
    (source / "adapter_config.json").unlink()
    assert "alpha is not in torchtune's weights" in refused(source, saved(llama(), tmp_path / "base"))


def test_other_heads_than_the_base_s_are_refused(tmp_path: Path) -> None:
    source, _ = adapter(tmp_path / "tune", llama())
    assert "heads of" in refused(source, saved(llama(num_attention_heads=2, num_key_value_heads=2, head_dim=8), tmp_path / "base"))


# -- torchtune's own export -----------------------------------------------------------------------------------------------------------


def exported(to: Path, model: Any, *, dora: bool, moved: bool, qwen: bool = False) -> Path:
    """A directory as `FullModelHFCheckpointer` leaves it: both files and the base's config."""
    transformers = pytest.importorskip("transformers")
    source, _ = adapter(to, model, dora=dora)
    if qwen:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        transformers.Qwen2Config(**sizes, vocab_size=40).save_pretrained(source)
    else:
        model.config.save_pretrained(source)
    tensors = {}
    for name, tensor in torch.load(source / "adapter_model.pt").items():
        _, layer, part = name.split(".", 2)
        tune, leaf = next((t, part.removeprefix(f"{t}.")) for t in NAMES if part.startswith(f"{t}."))
        leaf = {"lora_a.weight": "lora_A.weight", "lora_b.weight": "lora_B.weight", "magnitude": "lora_magnitude_vector"}[leaf]
        heads, rows = HEADS.get(NAMES[tune].rpartition(".")[2]), tensor.clone()
        if heads and leaf == "lora_B.weight" and moved:
            rows[interleaved(heads)] = tensor
        tensors[f"base_model.model.model.layers.{layer}.{NAMES[tune]}.{leaf}"] = rows
    return put(source, "adapter_model.safetensors", tensors, {**CONFIG, "use_dora": dora})


def misordered_tensors(directory: Path) -> list[str]:
    report = check(str(directory), CheckOptions(base="none"))
    return [str(d.data["cause"]) for d in report.diagnostics if d.code == "LD509"]


def test_an_export_with_rows_in_order_is_silent(tmp_path: Path) -> None:
    assert misordered_tensors(exported(tmp_path / "a", llama(), dora=False, moved=True)) == []
    assert misordered_tensors(exported(tmp_path / "b", llama(), dora=False, moved=False, qwen=True)) == []


def test_magnitudes_that_were_not_moved_are_an_error(tmp_path: Path) -> None:
    assert misordered_tensors(exported(tmp_path / "a", llama(), dora=True, moved=True)) == ["torchtune-export"]


def test_rows_of_qwen_that_were_moved_are_an_error(tmp_path: Path) -> None:
    assert misordered_tensors(exported(tmp_path / "a", llama(), dora=False, moved=True, qwen=True)) == ["torchtune-export"]


def test_an_export_without_the_original_is_not_judged(tmp_path: Path) -> None:
    directory = exported(tmp_path / "a", llama(), dora=True, moved=True)
    (directory / "adapter_model.pt").unlink()
    assert misordered_tensors(directory) == []
