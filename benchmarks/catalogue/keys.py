"""Cases 000 to 218: the names of the tensors, and which of them there are."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from build_adapters import CONFIG, PICKLE, WEIGHTS
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file

from .case import case
from .models import adapt, drop, edit, first, lora, model, rename, save, setting, train

PREFIX = "base_model.model."
GONE = "warning: missing keys, no effect"


def raw(to: Path, name: str) -> None:
    """The state dict with the adapter's name in every key, under a config at the top."""
    peft = adapt(adapter_name=name)
    save(to)
    save_file({k: v for k, v in peft.state_dict().items() if "lora_" in k}, to / WEIGHTS)


case("000_good")(save)


@case("001_good_bin")
def good_bin(to: Path) -> None:
    peft = adapt()
    peft.save_pretrained(to)
    torch.save(get_peft_model_state_dict(peft), to / PICKLE)
    (to / WEIGHTS).unlink()


@case("100_adapter_name_left_default", light="LD603", wrong=False)
def name_default(to: Path) -> None:
    raw(to, "default")


@case("101_adapter_name_left_other", GONE, light="LD603")
def name_other(to: Path) -> None:
    raw(to, "foo")


@case("102_named_adapter_subdir", "error: no adapter_config.json at the top", wrong=False)
def subdirectory(to: Path) -> None:
    adapt(adapter_name="foo").save_pretrained(to)


@case("103_double_wrapped_peftmodel", GONE, light="LD601")
def wrapped_twice(to: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(PeftModel(get_peft_model(model(), lora()), lora())).save_pretrained(to)


@case("104_double_prefix_rename", GONE, light="LD601")
def prefixed_twice(to: Path) -> None:
    save(to)
    rename(to, lambda k: PREFIX + k)


@case("105_prefix_missing", GONE, light="LD604")
def no_prefix(to: Path) -> None:
    save(to)
    save_file(get_peft_model_state_dict(train(inject_adapter_in_model(lora(), model()))), to / WEIGHTS)


@case("106_trained_on_backbone", GONE, base="LD604")
def backbone(to: Path) -> None:
    train(get_peft_model(model("llama-backbone"), lora(task_type=None))).save_pretrained(to)
    setting(to, task_type="CAUSAL_LM", auto_mapping=None)


@case("107_causallm_on_backbone", "error: AttributeError", base="LD604", on="llama-backbone")
def head_on_backbone(to: Path) -> None:
    save(to)
    setting(to, task_type=None)


@case("108_orig_mod_inside", GONE, light="LD602")
def compiled_inside(to: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(get_peft_model(torch.compile(model()), lora(task_type=None))).save_pretrained(to)
    setting(to, task_type="CAUSAL_LM", auto_mapping=None)


@case("109_orig_mod_outside", GONE, light="LD602")
def compiled_outside(to: Path) -> None:
    save(to)
    rename(to, lambda k: f"_orig_mod.{k}")


@case("110_dataparallel_module", GONE, light="LD602")
def data_parallel(to: Path) -> None:
    save(to)
    rename(to, lambda k: f"module.{k}")


def infix(to: Path, wrapper: str) -> None:
    """A wrapper around every decoder layer."""
    save(to)
    rename(to, lambda k: ".".join(f"{p}.{wrapper}" if p.isdigit() else p for p in k.split(".")))


@case("111_checkpoint_wrapper", GONE, light="LD508|LD602")
def checkpoint_wrapper(to: Path) -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper as wrap

    peft = adapt()
    layers = peft.base_model.model.model.layers
    for number, layer in enumerate(list(layers)):
        layers[number] = wrap(layer)
    peft.save_pretrained(to)


case("112_checkpoint_wrapper_keys", GONE, light="LD602")(lambda to: infix(to, "_checkpoint_wrapped_module"))
case("113_fsdp_wrapped_keys", GONE, light="LD602")(lambda to: infix(to, "_fsdp_wrapped_module"))


@case("114_vlm_language_model_prefix", GONE, base="LD604")
def vision_language(to: Path) -> None:
    save(to)
    rename(to, lambda k: k.replace("model.model.layers", "model.model.language_model.layers"))


@case("115_kohya_names", GONE, light="LD509")
def kohya(to: Path) -> None:
    save(to)

    def convert(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        done = {}
        for name, value in tensors.items():
            stem, _, half = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
            stem = "lora_te_" + stem.replace(".", "_")
            done[f"{stem}.{'lora_down' if half == 'lora_A' else 'lora_up'}.weight"] = value
            done[f"{stem}.alpha"] = torch.tensor(8.0)
        return done

    edit(to, convert)


@case("116_diffusers_old_names", GONE, light="LD509")
def diffusers(to: Path) -> None:
    save(to)
    rename(to, lambda k: k.removeprefix(PREFIX).replace("lora_A", "lora.down").replace("lora_B", "lora.up"))


def mlx_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """MLX's names and orientation."""
    return {
        k.removeprefix(PREFIX).replace(".weight", "").replace("lora_A", "lora_a").replace("lora_B", "lora_b"): v.T
        for k, v in tensors.items()
    }


@case("117_mlx_dir", "error: KeyError 'peft_type'", light="LD509")
def mlx_directory(to: Path) -> None:
    save(to)
    tensors = mlx_names(load_file(to / WEIGHTS))
    (to / WEIGHTS).unlink()
    save_file({k: v.contiguous() for k, v in tensors.items()}, to / "adapters.safetensors")
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 2.0}, "num_layers": 2, "model": "loradoctor/tiny-llama"}
    (to / CONFIG).write_text(json.dumps(config))


@case("118_mlx_keys_in_peft_file", GONE, light="LD509")
def mlx_keys(to: Path) -> None:
    save(to)
    edit(to, mlx_names)


@case("119_torchtune_names", GONE, light="LD509")
def torchtune(to: Path) -> None:
    save(to)
    rename(
        to,
        lambda k: k.removeprefix(PREFIX + "model.").replace("self_attn", "attn").replace("lora_A", "lora_a").replace("lora_B", "lora_b"),
    )


@case("120_dot_weight_missing", GONE, light="LD509")
def no_weight_suffix(to: Path) -> None:
    save(to)
    rename(to, lambda k: k.removesuffix(".weight"))


@case("121_lowercase_ab", GONE, light="LD509")
def lower_case(to: Path) -> None:
    save(to)
    rename(to, lambda k: k.replace("lora_A", "lora_a").replace("lora_B", "lora_b"))


@case("122_layer_index_shift", "warning: missing keys, half the effect", light="LD610?", base="LD606")
def shifted(to: Path) -> None:
    save(to)
    rename(to, lambda k: k.replace("layers.1.", "layers.2.").replace("layers.0.", "layers.1."))


def exchanged(name: str) -> str:
    """The name of the other half."""
    return name.replace("lora_A", "lora_?").replace("lora_B", "lora_A").replace("lora_?", "lora_B")


@case("123_ab_swapped", "error: size mismatch", light="LD609")
def swapped(to: Path) -> None:
    save(to)
    rename(to, exchanged)


@case("124_transposed", "error: size mismatch", light="LD609")
def transposed(to: Path) -> None:
    save(to)
    edit(to, lambda tensors: {k: v.T for k, v in tensors.items()})


@case("125_transposed_square_silent", beyond="r, in and out are equal: both orientations fit")
def transposed_square(to: Path) -> None:
    save(to, r=32, target_modules=["q_proj"])
    edit(to, lambda tensors: {k: v.T for k, v in tensors.items()})


@case("200_empty_file", GONE, light="LD508")
def empty(to: Path) -> None:
    save(to)
    save_file({}, to / WEIGHTS)


@case("201_zero3_size0", "error: size mismatch", light="LD508")
def size_zero(to: Path) -> None:
    save(to)
    edit(to, lambda tensors: {k: torch.empty(0) for k in tensors})


@case("202_partial_layers", "warning: missing keys", base="LD606|LD615")
def partial(to: Path) -> None:
    save(to)
    drop(to, ".layers.1.")


@case("203_extra_layers", base="LD615")
def extra_layers(to: Path) -> None:
    save(to, "llama-4-layers")


@case("204_orphan_A", "warning: missing keys", light="LD607")
def orphan_a(to: Path) -> None:
    save(to)
    drop(to, first(to, "lora_B"))


@case("205_orphan_B", "warning: missing keys; A stays random", light="LD607")
def orphan_b(to: Path) -> None:
    save(to)
    drop(to, first(to, "lora_A"))


@case("206_target_modules_too_few", light="LD605")
def too_few(to: Path) -> None:
    save(to)
    setting(to, target_modules=["q_proj"])


@case("207_target_modules_too_many", "warning: missing keys", base="LD606", wrong=False)
def too_many(to: Path) -> None:
    save(to)
    setting(to, target_modules=["q_proj", "v_proj", "up_proj", "o_proj"])


@case("208_target_modules_partly_absent_in_base", base="LD618", wrong=False)
def partly_absent(to: Path) -> None:
    save(to)
    setting(to, target_modules=["q_proj", "v_proj", "up_proj", "c_attn", "query_key_value"])


@case("209_target_modules_none_match", "error: NoMatchingPeftModuleError", light="LD605")
def none_match(to: Path) -> None:
    save(to)
    setting(to, target_modules=["c_attn"])


@case("210_target_modules_missing_field", light="LD613")
def no_targets(to: Path) -> None:
    save(to)
    setting(to, target_modules=...)


@case("211_target_modules_regex_partial", "error: NoMatchingPeftModuleError", light="LD605")
def half_a_pattern(to: Path) -> None:
    save(to, target_modules=["q_proj"])
    setting(to, target_modules="q_proj")


@case("212_all_linear_string", "warning: missing keys", base="LD606", wrong=False)
def all_linear(to: Path) -> None:
    save(to)
    setting(to, target_modules="all-linear")


@case("213_layers_to_transform_mismatch", light="LD605")
def layers_left_out(to: Path) -> None:
    save(to)
    setting(to, layers_to_transform=[0])


@case("214_exclude_modules_added", light="LD605")
def excluded(to: Path) -> None:
    save(to)
    setting(to, exclude_modules=["v_proj"])


@case("215_base_key_injected", light="LD608")
def injected(to: Path) -> None:
    save(to)
    edit(to, lambda tensors: {**tensors, "base_model.model.model.norm.weight": torch.full((32,), 5.0)})


@case("216_base_layer_key_injected", light="LD608")
def injected_below(to: Path) -> None:
    save(to)
    name = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"
    edit(to, lambda tensors: {**tensors, name: torch.zeros(32, 32)})


@case("217_peft_type_wrong", GONE, light="LD521")
def other_method(to: Path) -> None:
    save(to)
    config = json.loads((to / CONFIG).read_text())
    common = {k: config[k] for k in ("base_model_name_or_path", "inference_mode", "peft_version", "target_modules", "task_type")}
    (to / CONFIG).write_text(json.dumps({**common, "peft_type": "IA3", "feedforward_modules": []}))


@case("218_adapter_of_other_module_type", light="LD605", wrong=False)
def on_a_norm(to: Path) -> None:
    save(to)
    module = "base_model.model.model.layers.0.input_layernorm"
    edit(to, lambda tensors: {**tensors, f"{module}.lora_A.weight": torch.rand(4, 32), f"{module}.lora_B.weight": torch.rand(32, 4)})
