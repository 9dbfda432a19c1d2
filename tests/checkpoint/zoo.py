"""Adapters of every PEFT method in several settings, made by the installed PEFT on models of a few hundred parameters."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

Make = Callable[[], Any]

LINEAR = ["up", "down"]
"""Linear layers of :func:`mixed`: 12 → 24 and 24 → 12, in each of three layers."""
TOKENS = {"num_virtual_tokens": 3}
CONV = {"target_modules": ["conv2d"]}
CONV1D = {"target_modules": ["conv1d"]}
BD = {"target_modules_bd_a": ["up"], "target_modules_bd_b": ["down"], "nblocks": 2}


def mixed() -> Any:
    """Three layers of each kind of module that a method adapts; sizes differ, so that no two axes can be taken for each other."""
    from torch import nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(12, 24)
            self.down = nn.Linear(24, 12)
            self.conv2d = nn.Conv2d(8, 12, 3)
            self.conv1x1 = nn.Conv2d(8, 12, 1)
            self.conv1d = nn.Conv1d(8, 12, 3)
            self.conv3d = nn.Conv3d(4, 6, 3)
            self.grouped = nn.Conv2d(8, 12, 3, groups=2)
            self.norm = nn.LayerNorm(12)
            self.attn = nn.MultiheadAttention(12, 2)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb = nn.Embedding(20, 12)
            self.layers = nn.ModuleList(Layer() for _ in range(3))
            self.head = nn.Linear(12, 20)

    return Model()


def llama(**more: Any) -> Any:
    """A causal language model of two layers, hidden size 16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32}
    return LlamaForCausalLM(LlamaConfig(**{**shape, "num_key_value_heads": 1, **more}))


def experts() -> Any:
    """A causal language model whose experts are fused into one parameter."""
    from transformers import MixtralConfig, MixtralForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32}
    return MixtralForCausalLM(MixtralConfig(**shape, num_key_value_heads=1, num_local_experts=4))


def _lora(name: str, values: dict[str, Any]) -> Any:
    import peft

    return getattr(peft, name)(**values)


@dataclasses.dataclass(frozen=True)
class Case:
    """One adapter: PEFT's method, the model it is put on, and the config's values (a callable is called when they are needed)."""

    peft_type: str
    values: dict[str, Any]
    model: Make = mixed
    lazy: dict[str, Make] = dataclasses.field(default_factory=dict)


def _cases() -> dict[str, Case]:
    cases: dict[str, Case] = {}

    def add(peft_type: str, setting: str = "", /, model: Make = mixed, lazy: dict[str, Make] | None = None, **values: Any) -> None:
        cases[peft_type.lower() + (f"_{setting}" if setting else "")] = Case(peft_type, values, model, lazy or {})

    add("LORA", r=4)
    add("LORA", "patterns", r=4, rank_pattern={"up": 2}, alpha_pattern={"down": 3})
    add("LORA", "dora", r=4, use_dora=True)
    add("LORA", "bias", r=4, lora_bias=True)
    add("LORA", "base_bias", r=4, bias="lora_only")
    add("LORA", "embedding", r=4, target_modules=["emb", "up"])
    add("LORA", "conv", r=4, target_modules=["conv2d", "conv1d", "conv3d", "conv1x1"])
    add("LORA", "conv_dora", r=4, target_modules=["conv2d", "conv1d"], use_dora=True)
    add("LORA", "grouped", r=4, target_modules=["grouped"])
    add("LORA", "attention", r=4, target_modules=["attn"])
    add("LORA", "tokens", model=llama, r=4, target_modules=["q_proj"], trainable_token_indices=[1, 5])
    add("LORA", "saved", model=llama, r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    add("LORA", "experts", model=experts, r=4, target_modules=[], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
    add("LORA", "experts_and_more", model=experts, r=4, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])
    add("LORA", "blocks", r=4, lazy={"use_bdlora": lambda: _lora("BdLoraConfig", BD)})
    add("LORA", "kasa", r=4, lazy={"kasa_config": lambda: _lora("KasaConfig", {})})
    add("LORA", "velora", r=4, lazy={"velora_config": lambda: _lora("VeloraConfig", {"num_groups": 4})})
    add("LORA", "montecarlo", r=4, lazy={"monteclora_config": lambda: _lora("MontecloraConfig", {})})
    add("LORA", "activated", model=llama, r=4, target_modules=["q_proj"], alora_invocation_tokens=[1])
    add("LORA", "replicated", model=llama, r=4, target_modules=["q_proj"], layer_replication=[[0, 2], [1, 2]])
    add("LORA", "mica", r=4, init_lora_weights="mica")
    add("ADALORA", init_r=4, total_step=10)
    add("ADALORA", "dora_free", init_r=6, target_r=2, total_step=10, bias="all")
    for name in ("LOHA", "HIRA"):
        add(name, r=4, rank_pattern={"up": 2})
        add(name, "conv", r=4, **CONV)
        add(name, "conv1d", r=4, **CONV1D)
    add("HIRA", "embedding", r=4, target_modules=["emb"])
    add("LOHA", "effective", r=4, use_effective_conv2d=True, **CONV)
    add("LOHA", "effective_1d", r=4, use_effective_conv2d=True, **CONV1D)
    add("LOHA", "conv1x1", r=4, use_effective_conv2d=True, target_modules=["conv1x1"])
    add("LOKR", r=2)
    add("LOKR", "whole", r=64)
    add("LOKR", "both", r=1, decompose_both=True)
    add("LOKR", "factor", r=2, decompose_factor=2, rank_pattern={"up": 1})
    add("LOKR", "conv", r=2, **CONV)
    add("LOKR", "conv1d", r=1, **CONV1D)
    add("LOKR", "effective", r=1, use_effective_conv2d=True, **CONV)
    add("LOKR", "effective_1d", r=1, use_effective_conv2d=True, **CONV1D)
    add("LOKR", "conv1x1", r=1, use_effective_conv2d=True, decompose_both=True, target_modules=["conv1x1"])
    add("VERA", r=4)
    add("VERA", "seed", r=4, save_projection=False)
    add("PVERA", r=4)
    add("PVERA", "seed", r=4, save_projection=False)
    add("RANDLORA", r=4)
    add("RANDLORA", "seed", r=4, save_projection=False, sparse=True)
    add("TINYLORA", r=2, u=8)
    add("TINYLORA", "tied", r=2, u=8, weight_tying=1.0, save_projection=False)
    add("TINYLORA", "half", r=2, u=8, weight_tying=0.5)
    add("UNILORA", theta_d_length=32, r=2)
    add("UNILORA", "indices", theta_d_length=32, r=2, save_indices=True)
    add("VBLORA", r=2, num_vectors=8, vector_length=4, topk=2)
    add("VBLORA", "topk", r=2, num_vectors=8, vector_length=4, topk=2, save_only_topk_weights=True)
    add("VBLORA", "many", r=2, num_vectors=300, vector_length=4, topk=3, save_only_topk_weights=True)
    add("FROD")
    add("FROD", "seed", save_projection=False, sparse_rate=0.1)
    add("FOURIERFT", n_frequency=8, n_frequency_pattern={"up": 5})
    add("WAVEFT", n_frequency=8, n_frequency_pattern={"up": 5})
    add("WAVEFT", "proportional", n_frequency=8, proportional_parameters=True)
    add("C3A", block_size=4)
    add("C3A", "pattern", block_size=4, block_size_pattern={"up": 6})
    add("GRALORA", r=4, gralora_k=2)
    add("GRALORA", "hybrid", r=4, gralora_k=2, hybrid_r=2)
    add("HRA", r=4)
    add("HRA", "conv", r=4, apply_GS=True, **CONV)
    add("OFT", oft_block_size=4)
    add("OFT", "blocks", r=3, oft_block_size=0)
    add("OFT", "shared", oft_block_size=4, block_share=True)
    add("OFT", "adjusted", oft_block_size=5)
    add("OFT", "adjusted_blocks", r=5, oft_block_size=0)
    add("OFT", "conv", oft_block_size=4, **CONV)
    add("OFT", "embedding", oft_block_size=4, target_modules=["emb"])
    add("BOFT", boft_block_size=2, boft_n_butterfly_factor=1)
    add("BOFT", "number", boft_block_size=0, boft_block_num=4, boft_n_butterfly_factor=2)
    add("BOFT", "conv", boft_block_size=4, **CONV)
    add("BOFT", "plain", boft_block_size=4, boft_n_butterfly_factor=0)
    add("PSOFT", r=4)
    add("PSOFT", "free", r=4, psoft_orth=False, psoft_mag_a=False)
    add("ROAD", group_size=4)
    add("ROAD", "2", group_size=4, variant="road_2")
    add("ROAD", "4", group_size=4, variant="road_4")
    add("MISS", r=4)
    add("MISS", "bat", r=4, init_weights="bat")
    add("MISS", "mini", r=4, mini_r=2, init_weights="mini")
    add("MISS", "random", r=4, init_weights=False)
    add("DEFT", r=4)
    add("DEFT", "lowered", r=20)
    add("DEFT", "para", r=4, para=True, decomposition_method="qr")
    add("DELORA", r=4, rank_pattern={"up": 2})
    add("GLORA", r=4)
    add("GLORA", "vectors", r=4, config_A_B="vector", config_C="vector", config_D_E="vector")
    add("GLORA", "constants", r=4, config_A_B="constant", config_C="none", config_D_E="none")
    add("GLORA", "nothing", r=4, config_A_B="none", config_C="lora", config_D_E="constant")
    add("OSF")
    add("OSF", "rank", effective_rank=4, rank_pattern={"up": 3})
    add("OSF", "share", effective_rank=0.25)
    add("IA3", feedforward_modules=["down"])
    add("IA3", "conv", target_modules=["conv2d", "up"], feedforward_modules=["conv2d"])
    add("IA3", "conv3d", target_modules=["conv3d"], feedforward_modules=[])
    add("SHIRA", r=2)
    add("SUPERTUNING", sparsity=0.9)
    add("SUPERTUNING", "supra", sparsity=0.9, r=3, lora_alpha=4.0)
    add("SUPERTUNING", "recomputed", sparsity=0.9, save_precomputed_indices=False)
    add("LN_TUNING", target_modules=["norm"])
    add("LN_TUNING", "whole", target_modules=["norm", "up"])
    add("BEFT")
    add("TRAINABLE_TOKENS", target_modules=["emb"], token_indices=[1, 2])
    add("POLY", r=4, n_tasks=3, n_skills=2, n_splits=2)
    add("LILY", r=4, num_B=2)
    add("LILY", "stride", r=4, num_B=3, stride_A=2)
    add("PEANUT", r=4)
    add("PEANUT", "deep", r=4, depth=2)
    add("SHADOW", model=llama)
    add("ADAPTION_PROMPT", model=llama, adapter_len=3, adapter_layers=1, target_modules=None)
    add("PROMPT_TUNING", model=llama, **TOKENS)
    add("P_TUNING", model=llama, **TOKENS, encoder_hidden_size=8)
    add("PREFIX_TUNING", model=llama, **TOKENS)
    add("PREFIX_TUNING", "projected", model=llama, **TOKENS, prefix_projection=True, encoder_hidden_size=8)
    add("CPT", model=llama, cpt_token_ids=[1, 2, 3], cpt_mask=[1, 1, 1], cpt_tokens_type_mask=[1, 1, 1])
    add("CARTRIDGE", model=llama, **TOKENS)
    add("MULTITASK_PROMPT_TUNING", model=llama, **TOKENS, num_tasks=2, num_ranks=1)
    return cases


CASES = _cases()


@cache
def fields(peft_type: str) -> frozenset[str]:
    """The fields that the installed PEFT's config of a method has; empty for a method that it lacks."""
    from peft import mapping

    config = dict(mapping.PEFT_TYPE_TO_CONFIG_MAPPING).get(peft_type)
    return frozenset(f.name for f in dataclasses.fields(config)) if config is not None else frozenset()


def model(case: Case, *, trained: bool = True) -> Any:
    """The case's adapter on a fresh model, every trainable parameter moved away from where it starts unless ``trained`` is false."""
    import peft
    import torch
    from peft import mapping

    values = dict(case.values)
    if "target_modules" in fields(case.peft_type) and case.model is not llama:
        values.setdefault("target_modules", LINEAR)
    elif "target_modules" in fields(case.peft_type):
        values.setdefault("target_modules", ["q_proj", "v_proj"])
    if case.model is not mixed:
        values["task_type"] = "CAUSAL_LM"
    values |= {name: make() for name, make in case.lazy.items()}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(case.model(), mapping.PEFT_TYPE_TO_CONFIG_MAPPING[case.peft_type](**values))
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad and trained:
                    parameter.add_(0.05 * torch.randn_like(parameter))
    return wrapped


def save(case: Case, directory: Path, *, trained: bool = True) -> int:
    """Write the case's adapter as PEFT does; how many parameters PEFT says are trained."""
    wrapped = model(case, trained=trained)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped.save_pretrained(directory)
    return int(wrapped.get_nb_trainable_parameters()[0])
