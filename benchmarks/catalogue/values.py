"""Cases 300 to 316: what the tensors hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from peft import get_peft_model

from .case import case
from .models import edit, first, lora, model, save, setting

Change = Callable[[torch.Tensor], torch.Tensor]


def change(to: Path, part: str, how: Change) -> None:
    """Change the tensors whose names hold ``part``."""
    edit(to, lambda tensors: {k: how(v) if part in k else v for k, v in tensors.items()})


def spoil(to: Path, part: str, value: float) -> None:
    """Put one ``value`` into the first tensor whose name holds ``part``."""

    def put(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[3] = value
        return tensor

    change(to, first(to, part), put)


@case("300_untrained_B_zero", light="LD702")
def untrained(to: Path) -> None:
    get_peft_model(model(), lora()).save_pretrained(to)


@case("301_A_zero", light="LD704")
def zero_a(to: Path) -> None:
    save(to)
    change(to, "lora_A", torch.zeros_like)


@case("302_one_dead_module", light="LD703")
def one_dead(to: Path) -> None:
    save(to)
    change(to, first(to, "lora_B"), torch.zeros_like)


@case("303_nan", light="LD701")
def nan(to: Path) -> None:
    save(to)
    spoil(to, "lora_B", float("nan"))


@case("304_inf", light="LD701")
def infinity(to: Path) -> None:
    save(to)
    spoil(to, "lora_A", float("inf"))


@case("305_nan_times_zero", light="LD701 LD703?")
def nan_times_zero(to: Path) -> None:
    save(to)
    spoil(to, "lora_A", float("nan"))
    change(to, first(to, "lora_B"), torch.zeros_like)


@case("306_fp16_overflowing_delta", light="LD706")
def overflowing(to: Path) -> None:
    save(to)
    edit(to, lambda tensors: {k: (v * 2e4).half() for k, v in tensors.items()})


@case("307_fp16_subnormal", light="LD706")
def subnormal(to: Path) -> None:
    save(to)
    edit(to, lambda tensors: {k: (v * 1e-5).half() for k, v in tensors.items()})


@case("308_delta_below_half_ulp_bf16", base="LD802", on="llama-bfloat16")
def below_half_ulp(to: Path) -> None:
    save(to, "llama-bfloat16")
    edit(to, lambda tensors: {k: v.float() * (1e-4 if "lora_B" in k else 1) for k, v in tensors.items()})


@case("309_mixed_dtypes", light="LD705")
def mixed(to: Path) -> None:
    save(to)
    change(to, "lora_B", torch.Tensor.bfloat16)


@case("310_float64", wrong=False)
def double(to: Path) -> None:
    save(to)
    change(to, "lora_", torch.Tensor.double)


@case("311_float8", light="LD705")
def float8(to: Path) -> None:
    save(to)
    change(to, "lora_", lambda v: v.to(torch.float8_e4m3fn))


@case("312_int8", light="LD705")
def integers(to: Path) -> None:
    save(to)
    change(to, "lora_", lambda v: (v / v.abs().max() * 127).round().to(torch.int8))


@case("313_rank_deficient", wrong=False)
def deficient(to: Path) -> None:
    save(to)
    change(to, "lora_B", lambda v: v[:, :1] @ torch.ones(1, 4))


@case("314_huge_scale", light="LD527")
def huge_scale(to: Path) -> None:
    save(to)
    setting(to, lora_alpha=4096)


@case("315_outlier", beyond="a training may end there; said at info")
def outlier(to: Path) -> None:
    save(to)
    name = first(to, "lora_B")
    spoil(to, name, 500.0)


@case("316_duplicate_layer_content", light="LD709")
def duplicate(to: Path) -> None:
    save(to)
    edit(to, lambda tensors: {k: tensors[k.replace(".layers.1.", ".layers.0.")].clone() for k in tensors})
