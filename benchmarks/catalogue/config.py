"""Cases 400 to 519: `adapter_config.json` against the tensors, and by itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

from build_adapters import CONFIG

from .case import case
from .models import drop, rename, save, setting

ALPHA = "alpha is written nowhere but in the config"


@case("400_r_too_big_in_config", "error: size mismatch", light="LD611")
def r_too_big(to: Path) -> None:
    save(to)
    setting(to, r=8)


@case("401_rank_pattern_lost", "error: size mismatch", light="LD611")
def rank_pattern_lost(to: Path) -> None:
    save(to, rank_pattern={"v_proj": 2})
    setting(to, rank_pattern={})


@case("402_alpha_pattern_lost", beyond=ALPHA)
def alpha_pattern_lost(to: Path) -> None:
    save(to, alpha_pattern={"v_proj": 64})
    setting(to, alpha_pattern={})


@case("403_rslora_flipped", beyond=ALPHA)
def rslora_flipped(to: Path) -> None:
    save(to, use_rslora=True)
    setting(to, use_rslora=False)


@case("404_alpha_changed", beyond=ALPHA)
def alpha_changed(to: Path) -> None:
    save(to)
    setting(to, lora_alpha=16)


@case("405_alpha_missing", light="LD527")
def alpha_missing(to: Path) -> None:
    save(to, lora_alpha=32)
    setting(to, lora_alpha=...)


@case("406_r_missing", "error: size mismatch", light="LD611")
def r_missing(to: Path) -> None:
    save(to)
    setting(to, r=...)


def with_setting(name: str, peft: str, light: str, base: str | None = None, **changes: object) -> None:
    """A case that is one changed value."""

    def build(to: Path) -> None:
        save(to)
        setting(to, **changes)

    case(name, peft, light=light, base=base)(build)


with_setting("407_r_zero", "error: ValueError", "LD522", r=0)
with_setting("408_r_string", "error: TypeError", "LD522", r="4")
with_setting("409_alpha_null", "error: TypeError", "LD522", lora_alpha=None)
with_setting("410_alpha_negative", "silent", "LD527", lora_alpha=-8)
with_setting("411_alpha_zero", "silent", "LD522", lora_alpha=0)


@case("412_dora_flag_lost", light="LD612")
def dora_flag(to: Path) -> None:
    save(to, use_dora=True)
    setting(to, use_dora=False)


@case("413_dora_magnitude_missing", "warning: missing keys", light="LD612")
def dora_magnitudes(to: Path) -> None:
    save(to, use_dora=True)
    drop(to, "magnitude")


@case("414_dora_magnitude_weight_suffix")
def dora_weight(to: Path) -> None:
    save(to, use_dora=True)
    rename(to, lambda k: k + ".weight" if k.endswith("magnitude_vector") else k)


@case("415_dora_magnitude_default_suffix", "warning: missing keys", light="LD603")
def dora_default(to: Path) -> None:
    save(to, use_dora=True)
    rename(to, lambda k: k + ".default" if k.endswith("magnitude_vector") else k)


@case("416_lora_bias_flag_lost", light="LD612", on="gpt2")
def lora_bias(to: Path) -> None:
    save(to, "gpt2", target_modules=["c_attn"], lora_bias=True, fan_in_fan_out=True)
    setting(to, lora_bias=False)


def biased(to: Path) -> None:
    """GPT-2 with its biases trained along."""
    save(to, "gpt2", target_modules=["c_attn"], bias="lora_only", fan_in_fan_out=True)


case("417_bias_lora_only_gpt2", on="gpt2")(biased)


@case("418_bias_flag_lost_gpt2", light="LD608", on="gpt2", wrong=False)
def bias_flag(to: Path) -> None:
    biased(to)
    setting(to, bias="none")


@case("419_fan_in_fan_out_wrong_gpt2", "warning: corrected", on="gpt2")
def fan_gpt2(to: Path) -> None:
    save(to, "gpt2", target_modules=["c_attn"], fan_in_fan_out=True)
    setting(to, fan_in_fan_out=False)


@case("420_fan_in_fan_out_wrong_llama", "warning: corrected")
def fan_llama(to: Path) -> None:
    save(to)
    setting(to, fan_in_fan_out=True)


case("421_pissa")(lambda to: save(to, init_lora_weights="pissa"))


@case("422_pissa_init_flag_lost", beyond="plain LoRA and PiSSA tensors look alike once trained")
def pissa_flag(to: Path) -> None:
    save(to, init_lora_weights="pissa")
    setting(to, init_lora_weights=True)


case("423_pissa_niter", light="LD807", base="LD801")(lambda to: save(to, init_lora_weights="pissa_niter_4"))
case("424_olora")(lambda to: save(to, init_lora_weights="olora"))
case("425_pissa_on_other_base", on="llama-other", beyond="another base of the same shape; no hash is saved")(
    lambda to: save(to, init_lora_weights="pissa")
)
with_setting("426_corda_config", "error: ValueError eigens", "LD807", "LD617", init_lora_weights="corda", corda_config={})
with_setting("427_loftq_config", "error: ImportError scipy", "LD807", "LD617", init_lora_weights="loftq", loftq_config={"loftq_bits": 4})
with_setting("428_eva_config", "silent", "", init_lora_weights="eva", eva_config={"rho": 2.0})


@case("429_layer_replication", light="LD805")
def replication(to: Path) -> None:
    save(to, layer_replication=[[0, 2], [1, 2]])


@case("430_layer_replication_lost", base="LD615")
def replication_lost(to: Path) -> None:
    replication(to)
    setting(to, layer_replication=None)


with_setting("431_rank_pattern_greedy", "warning: pattern matches nothing", "", rank_pattern={"proj": 2})


def tokens(to: Path) -> None:
    """Two token rows trained."""
    save(to, trainable_token_indices=[1, 5])


case("432_trainable_token_indices")(tokens)


@case("433_trainable_token_indices_mismatch", "error: size mismatch", light="LD530")
def tokens_count(to: Path) -> None:
    tokens(to)
    setting(to, trainable_token_indices=[1, 5, 7])


@case("434_trainable_token_indices_reordered", beyond="the rows do not say which token is theirs")
def tokens_order(to: Path) -> None:
    tokens(to)
    setting(to, trainable_token_indices=[5, 1])


@case("435_trainable_token_oob", "error: IndexError", base="LD530")
def tokens_beyond(to: Path) -> None:
    tokens(to)
    setting(to, trainable_token_indices=[1, 999])


@case("500_config_missing", "error: ValueError", light="LD520")
def no_config(to: Path) -> None:
    save(to)
    (to / CONFIG).unlink()


@case("501_config_not_json", "error: JSONDecodeError", light="LD520")
def half_config(to: Path) -> None:
    save(to)
    (to / CONFIG).write_text((to / CONFIG).read_text()[:547])


with_setting("502_peft_type_missing", "error: KeyError", "LD521", peft_type=...)
with_setting("503_peft_type_unknown", "error: KeyError BONE", "LD521", peft_type="BONE")
with_setting("504_peft_type_lowercase", "error: KeyError", "LD521", peft_type="lora")
with_setting("505_unknown_field", "warning: ignored", "LD523", use_future_thing=True)
with_setting("506_task_type_null", "silent", "", task_type=None)
with_setting("507_task_type_invalid", "error: ValueError", "LD522", task_type="CHAT")
with_setting("508_task_type_wrong", "silent", "LD614", task_type="SEQ_CLS")
with_setting("509_base_name_gone", "error: OSError (AutoPeft)", "LD525", base_model_name_or_path="/home/alice/models/llama")
with_setting("510_base_name_null_auto", "error: OSError (AutoPeft)", "", base_model_name_or_path=None)
with_setting("511_base_name_mismatch", "silent", "", base_model_name_or_path="loradoctor/another-model")
with_setting("512_inference_mode_false", "silent", "", inference_mode=False)
with_setting("513_runtime_config_key", "warning: ignored", "", runtime_config={"ephemeral_gpu_offload": False})
with_setting("514_auto_task_null", "error: ValueError (AutoPeft)", "", task_type=None)


@case("515_duplicate_json_keys", light="LD528")
def twice(to: Path) -> None:
    save(to)
    text = (to / CONFIG).read_text()
    (to / CONFIG).write_text(re.sub(r"\n\}\s*$", ',\n  "lora_alpha": 32\n}\n', text))


@case("516_bom", "error: JSONDecodeError", light="LD520")
def bom(to: Path) -> None:
    save(to)
    (to / CONFIG).write_bytes(b"\xef\xbb\xbf" + (to / CONFIG).read_bytes())


@case("517_minimal_old_config", "warning: ignored")
def oldest(to: Path) -> None:
    save(to)
    config = json.loads((to / CONFIG).read_text())
    old = (
        "base_model_name_or_path",
        "bias",
        "fan_in_fan_out",
        "inference_mode",
        "lora_alpha",
        "lora_dropout",
        "modules_to_save",
        "peft_type",
    )
    kept = {k: config[k] for k in (*old, "r", "target_modules", "task_type")}
    (to / CONFIG).write_text(json.dumps({**kept, "enable_lora": None, "merge_weights": False}))


with_setting("518_unknown_init", "error: ValueError", "LD522", init_lora_weights="futuristic")
with_setting("519_use_dora_future_variant", "warning: ignored", "LD523", xyz_config={"depth": 2})
