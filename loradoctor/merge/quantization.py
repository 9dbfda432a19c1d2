"""What merging does on a base that is stored in few bits, by the `quant_method` of its config: seen by running PEFT 0.21.2, or read in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantization:
    """``title`` is the field's name. ``refuses`` says how PEFT fails; empty where it takes the weights up, adds, and quantizes again."""

    title: str
    refuses: str = ""


KNOWN = {
    # peft/tuners/lora/bnb.py and peft/utils/quantization_utils.py
    "bitsandbytes": Quantization("bitsandbytes"),
    # peft/tuners/lora/hqq.py and torchao.py, and the same place
    "hqq": Quantization("HQQ"),
    "torchao": Quantization("torchao", "weights that torchao itself can take up are quantized again (for LoRA only int8), others raise"),
    # peft/tuners/lora/model.py: _check_merge_allowed; other layers for them have no merge, or one that raises.
    "gptq": Quantization("GPTQ", "`merge_and_unload()` raises"),
    "awq": Quantization("AWQ", "`merge_and_unload()` raises"),
    "aqlm": Quantization("AQLM", "`merge_and_unload()` raises"),
    "eetq": Quantization("EETQ", "`merge_and_unload()` raises"),
    # Run: a packed weight has another name, int8 and float8 are no dtypes to add float32 to. On a machine without a GPU, and for
    # 8-bit integers after the first forward pass, transformers puts bfloat16 weights in their place, and those do merge.
    "compressed-tensors": Quantization(
        "compressed-tensors",
        "packed weights take no adapter (AttributeError), 8-bit ones raise RuntimeError until a forward pass has made bfloat16 of them",
    ),
    "fp8": Quantization("FP8", "`merge_and_unload()` raises RuntimeError unless transformers has made bfloat16 of it, as it does without a GPU"),
    "fbgemm_fp8": Quantization("FP8", "`merge_and_unload()` raises RuntimeError"),
    "mxfp4": Quantization("MXFP4", "its experts take no adapter unless they are loaded with `Mxfp4Config(dequantize=True)`, as bfloat16"),
}


def of(method: object) -> Quantization | None:
    """What is known about the ``quant_method`` called ``method``; one that PEFT has no layer for refuses. None without a method."""
    if not isinstance(method, str) or not method:
        return None
    return KNOWN.get(method.lower().replace("_", "-"), KNOWN.get(method.lower(), Quantization(method, "PEFT has no layers for it that merge")))
