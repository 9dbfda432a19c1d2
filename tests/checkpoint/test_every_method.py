"""Every method PEFT has: a trained adapter is silent, an untrained one is not taken for trained, parameters are PEFT's count."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from loradoctor.checkpoint.methods import METHODS
from loradoctor.checkpoint.run import CheckOptions, check_many
from loradoctor.diagnostic import Severity

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
mapping = pytest.importorskip("peft.mapping")

TOKENS = {"num_virtual_tokens": 3}
NEEDED: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10},
    "ADAPTION_PROMPT": {"adapter_len": 3, "adapter_layers": 1, "target_modules": None},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 8},
    "CARTRIDGE": TOKENS,
    "CPT": {"cpt_token_ids": [1, 2, 3], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 1, 1]},
    "FOURIERFT": {"n_frequency": 8},
    "GRALORA": {"r": 4, "gralora_k": 2},
    "IA3": {"feedforward_modules": []},
    "LILY": {"stride_A": 1, "num_B": 2},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "LOKR": {"r": 4},
    "MISS": {"r": 4},
    "MULTITASK_PROMPT_TUNING": {**TOKENS, "num_tasks": 2},
    "OFT": {"r": 2, "oft_block_size": 0},
    "PREFIX_TUNING": TOKENS,
    "PROMPT_TUNING": TOKENS,
    "PSOFT": {"r": 4},
    "P_TUNING": {**TOKENS, "encoder_hidden_size": 8},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {"token_indices": [1, 2], "target_modules": ["embed_tokens"]},
    "UNILORA": {"theta_d_length": 32, "r": 2},
    "VBLORA": {"r": 2, "num_vectors": 8, "vector_length": 4, "topk": 2},
    "WAVEFT": {"n_frequency": 8},
}
# XLORA needs trained adapters on disk, ADAMSS a library that is not a dependency; BONE is outdated and said to be.
SKIPPED = {"XLORA", "ADAMSS", "BONE"}
TYPES = sorted({t.value for t in mapping.PEFT_TYPE_TO_CONFIG_MAPPING} - SKIPPED)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def wrapped(peft_type: str) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32}
    model = LlamaForCausalLM(LlamaConfig(**shape))
    config = mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft_type]
    values: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    if "target_modules" in {f.name for f in dataclasses.fields(config)}:
        values["target_modules"] = ["q_proj", "v_proj"]
    return peft.get_peft_model(model, config(**{**values, **NEEDED.get(peft_type, {})}))


def checked(model: Any, directory: Path) -> Any:
    model.save_pretrained(directory)
    return check_many([str(directory)], CheckOptions(base="none"))


@pytest.mark.parametrize("peft_type", TYPES)
def test_a_trained_adapter_is_silent(peft_type: str, tmp_path: Path) -> None:
    model = wrapped(peft_type)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    report = checked(model, tmp_path)
    assert report.at_least(Severity.WARNING) == ()
    counted = report.subjects[0].facts["parameters"]
    # Older releases count prompt embeddings twice.
    assert counted is None or METHODS[peft_type].prompt or counted == model.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("peft_type", [t for t in TYPES if METHODS[t].zero or t == "IA3"])
def test_an_untrained_adapter_is_said_to_be_untrained(peft_type: str, tmp_path: Path) -> None:
    assert [d.code for d in checked(wrapped(peft_type), tmp_path).at_least(Severity.WARNING)] == ["LD702"]
