"""Norms and spectra against the ΔW that PEFT itself computes, for every variant whose update is a product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loradoctor.checkpoint.checkpoint import read

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")


def model() -> Any:
    torch.manual_seed(0)
    return torch.nn.ModuleDict(
        {"emb": torch.nn.Embedding(30, 12), "lin": torch.nn.Linear(12, 20), "out": torch.nn.Linear(20, 9), "conv": torch.nn.Conv2d(3, 8, 3)}
    )


PLAIN = {"r": 4, "lora_alpha": 10, "target_modules": ["emb", "lin", "conv"]}
CONFIGS = {
    "plain": lambda: peft.LoraConfig(**PLAIN),
    "rslora": lambda: peft.LoraConfig(**PLAIN, use_rslora=True),
    "patterns": lambda: peft.LoraConfig(**PLAIN, rank_pattern={"lin": 2}, alpha_pattern={"emb": 3, "lin": 7}),
    "adalora": lambda: peft.AdaLoraConfig(
        init_r=5, target_r=3, total_step=100, tinit=1, tfinal=1, lora_alpha=10, target_modules=["lin", "out"]
    ),
    "kasa": lambda: peft.LoraConfig(r=4, lora_alpha=10, target_modules=["lin", "out"], kasa_config=peft.KasaConfig()),
}


def delta_of(layer: Any) -> Any:
    """PEFT's ΔW; KaSA's is its variant's, which puts its diagonal between the halves (peft/tuners/lora/variants.py)."""
    if not getattr(layer, "lora_diag", None):
        return layer.get_delta_weight("default")
    return (
        layer.scaling["default"] * layer.lora_B["default"].weight @ (layer.lora_diag["default"][:, None] * layer.lora_A["default"].weight)
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CONFIGS)
def test_the_spectrum_is_that_of_pefts_update(tmp_path: Path, name: str) -> None:
    adapted = peft.get_peft_model(model(), CONFIGS[name]())
    with torch.no_grad():
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_" in parameter_name:
                parameter.normal_()
    adapted.save_pretrained(tmp_path)
    spectra = {s.module: s for s in read(str(tmp_path), tmp_path).spectra()}
    layers = {n.removeprefix("base_model.model."): m for n, m in adapted.named_modules() if hasattr(m, "get_delta_weight")}
    assert set(spectra) == set(layers)
    for module, layer in layers.items():
        update = delta_of(layer).detach().double().numpy()
        values = np.linalg.svd(update.reshape(len(update), -1), compute_uv=False)
        assert spectra[module].norm == pytest.approx(np.linalg.norm(update), rel=1e-5)
        assert np.abs(spectra[module].values - values[: len(spectra[module].values)]).max() < 1e-5 * values[0]


@pytest.mark.parametrize("transposed", [False, True])
def test_a_pickle_with_views_has_the_same_spectrum(tmp_path: Path, transposed: bool) -> None:
    a, b = torch.randn(4, 300), torch.randn(200, 4)
    stored = {"A": a.T.contiguous().T, "B": b.T.contiguous().T} if transposed else {"A": a, "B": b}
    torch.save({f"base_model.model.q.lora_{half}.weight": v for half, v in stored.items()}, tmp_path / "adapter_model.bin")
    peft.LoraConfig(r=4, lora_alpha=4, target_modules=["q"]).save_pretrained(tmp_path)
    checkpoint = read(str(tmp_path), tmp_path)
    assert (checkpoint.tensors["base_model.model.q.lora_A.weight"].strides is not None) == transposed
    (spectrum,) = checkpoint.spectra()
    wanted = np.linalg.svd((b.double() @ a.double()).numpy(), compute_uv=False)[:4]
    assert np.abs(spectrum.values - wanted).max() < 1e-9 * wanted[0]
