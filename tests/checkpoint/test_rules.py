"""What single rules say about adapters that differ from a healthy one in one thing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from loradoctor.checkpoint.run import CheckOptions, check
from loradoctor.diagnostic import Diagnostic

ROOT = Path(__file__).parents[2] / "fixtures" / "adapters"
Tensors = dict[str, np.ndarray[Any, Any]]
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "good_lora", tmp_path / "a")
    return tmp_path / "a"


def edit(adapter: Path, change: Callable[[Tensors], Tensors]) -> None:
    tensors = {k: np.ascontiguousarray(v) for k, v in change(load_file(adapter / "adapter_model.safetensors")).items()}
    save_file(tensors, adapter / "adapter_model.safetensors")


def setting(adapter: Path, **changes: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def found(adapter: Path) -> list[Diagnostic]:
    return list(check(str(adapter), CheckOptions(base="none")).diagnostics)


def codes(adapter: Path) -> list[str]:
    return [d.code for d in found(adapter)]


def only(adapter: Path) -> Diagnostic:
    (diagnostic,) = found(adapter)
    return diagnostic


def test_a_finding_says_how_many_and_names_a_few(adapter: Path) -> None:
    edit(adapter, lambda t: {f"module.{k}": v for k, v in t.items()})
    diagnostic = only(adapter)
    assert diagnostic.data["count"] == 8
    assert len(diagnostic.data["examples"]) == 3  # type: ignore[arg-type]
    assert diagnostic.location.key == f"module.{Q0}.lora_A.weight"


def test_a_config_finding_stands_at_its_key(adapter: Path) -> None:
    setting(adapter, r=0)
    location = only(adapter).location
    assert location.path.endswith("adapter_config.json")
    assert location.span is not None
    text = (adapter / "adapter_config.json").read_text().splitlines()[location.span.line - 1]
    assert text[location.span.column - 1 : location.span.end_column - 1] == '"r"'


def test_wrapped_and_nested_keys_are_not_also_outside_the_targets(adapter: Path) -> None:
    edit(adapter, lambda t: {f"_orig_mod.base_model.model.{k}": v for k, v in t.items()})
    assert codes(adapter) == ["LD601", "LD602"]


def test_another_adapter_name_is_named(adapter: Path) -> None:
    edit(adapter, lambda t: {k.replace(".weight", ".poet.weight"): v for k, v in t.items()})
    diagnostic = only(adapter)
    assert (diagnostic.code, diagnostic.data["adapters"]) == ("LD603", ["poet"])


def test_transposed_halves_are_recognised(adapter: Path) -> None:
    edit(adapter, lambda t: {k: v.T for k, v in t.items()})
    assert "transposed" in only(adapter).message


def test_a_missing_rank_is_pefts_default(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    del config["r"]
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert "PEFT takes 8" in only(adapter).message


def test_ranks_that_the_config_does_not_explain_are_grouped(adapter: Path) -> None:
    setting(adapter, rank_pattern={"q_proj": 2})
    diagnostic = only(adapter)
    assert (diagnostic.code, diagnostic.data["count"], diagnostic.data["expected"]) == ("LD611", 2, 2)


def test_embeddings_saved_after_a_resize_are_silent(adapter: Path) -> None:
    rows = {f"base_model.model.{n}.weight": np.ones((40, 16), np.float32) for n in ("model.embed_tokens", "lm_head")}
    edit(adapter, lambda t: {**t, **rows})
    assert codes(adapter) == []


def test_one_embedding_alone_is_undeclared(adapter: Path) -> None:
    edit(adapter, lambda t: {**t, "base_model.model.lm_head.weight": np.ones((32, 16), np.float32)})
    assert codes(adapter) == ["LD608"]


def test_biases_are_declared_by_bias(adapter: Path) -> None:
    edit(adapter, lambda t: {**t, f"{Q0}.base_layer.bias": np.ones(16, np.float32)})
    assert codes(adapter) == ["LD608"]
    setting(adapter, bias="lora_only")
    assert codes(adapter) == []


def test_a_suffix_is_enough_for_modules_to_save(adapter: Path) -> None:
    edit(adapter, lambda t: {**t, "base_model.model.lm_head.weight": np.ones((32, 16), np.float32)})
    setting(adapter, modules_to_save=["head"])
    assert codes(adapter) == []


def test_experts_that_were_never_routed_to_are_information(adapter: Path) -> None:
    edit(adapter, lambda t: {k.replace("self_attn", f"mlp.experts.{i % 2}"): v * (i > 1) for i, (k, v) in enumerate(sorted(t.items()))})
    setting(adapter, target_modules=["q_proj", "v_proj"])
    severities = {d.severity.value for d in found(adapter) if d.code == "LD703"}
    assert severities <= {"info"}


def test_a_torchtune_file_is_one_finding(adapter: Path) -> None:
    edit(
        adapter,
        lambda t: {k.removeprefix("base_model.model.").replace("lora_A", "lora_a").replace("lora_B", "lora_b"): v for k, v in t.items()},
    )
    assert only(adapter).data["cause"] == "torchtune"


def test_a_diffusers_file_alone_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({f"unet.down.0.attn1.to_q.lora_{h}.weight": np.ones((4, 4), np.float32) for h in "AB"}, path)
    assert [d.code for d in found(path)] == ["LD509"]


def test_an_mlx_config_alone_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"fine_tune_type": "lora", "lora_parameters": {"rank": 4}}')
    assert codes(tmp_path) == ["LD501", "LD509"]


def test_a_missing_embedding_half_is_an_orphan(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "good_embedding", tmp_path / "a")
    edit(tmp_path / "a", lambda t: {k: v for k, v in t.items() if "embedding_B" not in k})
    assert codes(tmp_path / "a") == ["LD607"]


def test_a_pruned_adalora_module_is_information(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "good_adalora", tmp_path / "a")
    edit(tmp_path / "a", lambda t: {k: v * (k != f"{Q0}.lora_E") for k, v in t.items()})
    assert [(d.code, d.severity.value) for d in found(tmp_path / "a")] == [("LD703", "info")]


def test_adalora_without_its_singular_values(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "good_adalora", tmp_path / "a")
    edit(tmp_path / "a", lambda t: {k: v for k, v in t.items() if k != f"{Q0}.lora_E"})
    assert codes(tmp_path / "a") == ["LD606"]


def test_adalora_masks_decide_the_rank(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "good_adalora_pruned", tmp_path / "a")
    setting(tmp_path / "a", rank_pattern=None)
    assert codes(tmp_path / "a") == ["LD611"]


def test_the_name_of_a_tensor_is_shown_raw_for_the_report_to_escape(adapter: Path) -> None:
    edit(adapter, lambda t: {**t, "base_model.model.\x1b[31mred.weight": np.ones(2, np.float32)})
    assert only(adapter).code == "LD608"


def test_a_base_path_that_exists_is_information(adapter: Path, tmp_path: Path) -> None:
    setting(adapter, base_model_name_or_path=str(tmp_path))
    assert (only(adapter).code, only(adapter).severity.value) == ("LD525", "info")


@pytest.mark.parametrize("base", ["tiny-llama", "meta-llama/Llama-3.1-8B", "loradoctor/Tiny-0.6B"])
def test_a_hub_id_is_no_path(adapter: Path, base: str) -> None:
    setting(adapter, base_model_name_or_path=base)
    assert codes(adapter) == []


@pytest.mark.parametrize("base", ["/gone/away", "./models/x", "../gone/x", "~/gone/x", "C:\\models\\x", "a/b/c"])
def test_a_path_that_is_gone_is_a_warning(adapter: Path, base: str) -> None:
    setting(adapter, base_model_name_or_path=base)
    assert [(d.code, d.severity.value) for d in found(adapter)] == [("LD525", "warning")]


def test_a_first_layer_that_is_gone_is_one_finding(adapter: Path) -> None:
    edit(adapter, lambda t: {k.replace("layers.1.", "layers.2.").replace("layers.0.", "layers.1."): v for k, v in t.items()})
    diagnostic = only(adapter)
    assert (diagnostic.code, diagnostic.data["component"]) == ("LD610", "0")


def test_square_halves_are_never_called_turned(adapter: Path) -> None:
    edit(adapter, lambda t: {k: np.eye(16, dtype=np.float32) + v.mean() for k, v in t.items()})
    setting(adapter, r=16)
    assert "LD609" not in codes(adapter)


def test_sound_and_turned_modules_are_told_apart(adapter: Path) -> None:
    edit(adapter, lambda t: {k: v.T if k.startswith(Q0) else v for k, v in t.items()})
    assert (only(adapter).code, only(adapter).data["count"]) == ("LD609", 1)


def test_trained_tokens_by_module_are_counted_by_module(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "good_token_indices", tmp_path / "a")
    setting(tmp_path / "a", trainable_token_indices={"embed_tokens": [1, 5]})
    assert codes(tmp_path / "a") == []
    setting(tmp_path / "a", trainable_token_indices={"embed_tokens": [1]})
    assert codes(tmp_path / "a") == ["LD530"]


def test_two_zero_layers_are_not_copies(adapter: Path) -> None:
    edit(adapter, lambda t: {k: np.zeros_like(v) for k, v in t.items()})
    assert "LD709" not in codes(adapter)


def test_faint_values_in_single_precision_are_fine(adapter: Path) -> None:
    edit(adapter, lambda t: {k: v * np.float32(1e-6) for k, v in t.items()})
    assert codes(adapter) == []


def test_factors_that_only_might_overflow_do_not(adapter: Path) -> None:
    def far(t: Tensors) -> Tensors:
        wide = {k: np.zeros_like(v, dtype=np.float16) + np.float16(0.01) for k, v in t.items()}
        for k, v in wide.items():
            # The largest values of A and B meet in no product: they are in different directions.
            v[(0, 0) if "lora_A" in k else (0, 1)] = 20000
        return wide

    edit(adapter, far)
    assert "LD706" not in codes(adapter)


@pytest.mark.parametrize(("init", "severity"), [("pissa", "info"), ("OLoRA", "info"), ("pissa_niter_16", "warning"), ("loftq", "warning")])
def test_initialisations_that_rewrite_the_base(adapter: Path, init: str, severity: str) -> None:
    setting(adapter, init_lora_weights=init)
    assert (only(adapter).code, only(adapter).severity.value) == ("LD807", severity)


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal"])
def test_initialisations_that_leave_the_base_alone(adapter: Path, init: object) -> None:
    setting(adapter, init_lora_weights=init)
    assert codes(adapter) == []


@pytest.mark.parametrize(
    "change", [{"inference_mode": False}, {"runtime_config": {"ephemeral_gpu_offload": True}}, {"target_modules": "all-linear"}]
)
def test_values_of_a_running_process_are_information(adapter: Path, change: dict[str, object]) -> None:
    setting(adapter, **change)
    assert [(d.code, d.severity.value) for d in found(adapter)] == [("LD529", "info")]


def test_a_name_where_a_pattern_is_needed_is_told_so(adapter: Path) -> None:
    edit(adapter, lambda t: {k: v for k, v in t.items() if "q_proj" in k})
    setting(adapter, target_modules="q_proj")
    assert (only(adapter).code, only(adapter).data["cause"]) == ("LD605", "pattern-matches-whole-paths")
    assert r".*\.q_proj" in only(adapter).help


def test_a_gap_among_experts_is_one_finding(adapter: Path) -> None:
    halves = {"A": np.ones((4, 16), np.float32), "B": np.full((16, 4), 0.1, np.float32)}
    rng = np.random.default_rng(0)
    edit(
        adapter,
        lambda _: {
            f"base_model.model.model.layers.{i}.mlp.experts.{e}.q_proj.lora_{h}.weight": v * rng.random(v.shape, np.float32)
            for i in range(3)
            for e in range(4)
            if (i, e) != (1, 2)
            for h, v in halves.items()
        },
    )
    assert [(d.code, d.severity.value) for d in found(adapter) if d.severity.value == "error"] == [("LD606", "error")]


def test_an_exclusion_that_is_no_list_is_one_finding(adapter: Path) -> None:
    setting(adapter, exclude_modules=10)
    assert only(adapter).code == "LD522"
