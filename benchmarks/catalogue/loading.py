"""Cases 700 to 723 and 900 to 905: other bases, other loaders, experts, several adapters, merging."""

from __future__ import annotations

import json
from pathlib import Path

from peft import get_peft_model
from safetensors.torch import save_file

from .case import case
from .keys import partial, raw
from .models import drop, edit, lora, model, save, setting, train

MISSING = "warning: missing keys"

case("700_base_wider", "error: size mismatch", base="LD615", on="llama-wide")(save)
case("701_base_other_weights", on="llama-other", beyond="another base of the same shape; no hash is saved")(save)
case("702_base_other_arch", "error: NoMatchingPeftModuleError", base="LD615", on="gpt2")(save)
case("703_base_more_layers", MISSING, base="LD615", on="llama-4-layers")(save)
case("704_loaded_on_peft_model", "two warnings; the directory is good")(save)
case("705_low_cpu_mem_partial", MISSING, base="LD606|LD615")(partial)
case("706_loaded_as_other_name")(save)
case("707_default_left_loaded_as_foo", MISSING, light="LD603")(lambda to: raw(to, "default"))
case("708_load_adapter_api", base="LD606|LD615")(partial)
case("709_transformers_load_adapter", base="LD606|LD615")(partial)


@case("710_ignore_mismatched_sizes", MISSING, light="LD611")
def mismatched(to: Path) -> None:
    save(to)
    setting(to, r=8)


def experts(to: Path, names: tuple[str, ...]) -> None:
    """Per-expert names as transformers 4 had them, made from a LoRA on attention."""
    import torch

    save(to, "mixtral", target_modules=["q_proj", "v_proj"])
    inputs, outputs = {"w1": 32, "w2": 48, "w3": 32}, {"w1": 48, "w2": 32, "w3": 48}
    torch.manual_seed(3)
    more = {}
    for layer in range(2):
        for expert in range(4):
            for name in names:
                stem = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                more[f"{stem}.lora_A.weight"] = 0.1 * torch.randn(4, inputs[name])
                more[f"{stem}.lora_B.weight"] = 0.1 * torch.randn(outputs[name], 4)
    edit(to, lambda tensors: {**tensors, **more})
    setting(to, target_modules=["q_proj", "v_proj", *names])


case("720_mixtral_v4_experts", "warning: spurious", on="mixtral")(lambda to: experts(to, ("w1", "w2", "w3")))
case("721_mixtral_v4_partial_w1", "error: ValueError", base="LD617", on="mixtral")(lambda to: experts(to, ("w1",)))


@case("722_mixtral_v4_missing_expert", "error: size mismatch", light="LD606", on="mixtral")
def expert_missing(to: Path) -> None:
    experts(to, ("w1", "w2", "w3"))
    drop(to, ".layers.0.block_sparse_moe.experts.2.")


@case("723_target_parameters", on="mixtral")
def parameters(to: Path) -> None:
    save(to, "mixtral", target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"])


def beside(to: Path, name: str) -> None:
    """`default` saved while another adapter called ``name`` is loaded."""
    peft = get_peft_model(model(), lora())
    peft.add_adapter(name, lora())
    peft.save_pretrained(to, selected_adapters=["default"])
    train(peft).save_pretrained(to, selected_adapters=["default"])


case("900_other_adapter_named_0", MISSING, base="LD610")(lambda to: beside(to, "0"))
case("901_other_adapter_named_mlp", MISSING, base="LD610")(lambda to: beside(to, "mlp"))


@case("902_fp16_base_merge_overflow", base="LD803", on="llama-float16")
def overflow(to: Path) -> None:
    save(to, "llama-float16")
    edit(to, lambda tensors: {k: v.float() * 2e4 for k, v in tensors.items()})


@case("903_merged_dir_with_lora_left", "error: no adapter_config.json", light="LD501")
def merged(to: Path) -> None:
    to.mkdir(parents=True)
    peft = train(get_peft_model(model(), lora()))
    save_file({k: v.contiguous().clone() for k, v in peft.base_model.model.state_dict().items()}, to / "model.safetensors")
    (to / "config.json").write_text(json.dumps(peft.base_model.model.config.to_dict(), default=str))


case("904_lora_bias", "warning: needs a bias", base="LD804", wrong=False)(lambda to: save(to, lora_bias=True))
case("905_alora")(lambda to: save(to, alora_invocation_tokens=[3, 4]))
