"""The borders of the rules about values: what is just inside stays silent, what is just outside is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.family import families, table, template
from loradoctor.checkpoint.rules.dead_modules import dead_modules
from loradoctor.checkpoint.rules.duplicated_layers import duplicated_layers
from loradoctor.checkpoint.rules.outlier import outlier
from loradoctor.checkpoint.rules.precision_range import LARGEST, LOST, ROUNDING, precision_range
from loradoctor.checkpoint.rules.rank_deficient import rank_deficient
from loradoctor.diagnostic import Finding
from tests.checkpoint.test_values_spectrum import write

Array = np.ndarray[Any, np.dtype[Any]]
RANK, WIDTH = 4, 64


def stack(layers: int = 12, seed: int = 0) -> dict[str, Array]:
    """A trained adapter of one module per layer, norms within a factor of two of each other."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for i in range(layers):
        tensors[f"layers.{i}.q.lora_A.weight"] = rng.standard_normal((RANK, WIDTH)).astype("f4") * 0.1
        tensors[f"layers.{i}.q.lora_B.weight"] = rng.standard_normal((WIDTH, RANK)).astype("f4") * np.float32(rng.uniform(0.01, 0.02))
    return tensors


def b(layer: int) -> str:
    return f"layers.{layer}.q.lora_B.weight"


def causes(findings: list[Finding]) -> list[object]:
    return [f.data["cause"] for f in findings]


def outliers(directory: Path, tensors: dict[str, Array]) -> list[object]:
    return causes(list(outlier.check(write(directory, tensors))))


def test_a_stack_of_similar_layers_has_no_outlier(tmp_path: Path) -> None:
    assert outliers(tmp_path / "a", stack()) == []


@pytest.mark.parametrize(("factor", "found"), [(5, []), (60, ["large-update"]), (1 / 5, []), (1 / 60, ["small-update"])])
def test_an_update_of_another_scale_is_an_outlier_of_its_family(tmp_path: Path, factor: float, found: list[str]) -> None:
    tensors = stack()
    for half in ("A", "B"):  # both by the root: neither half is conspicuous
        tensors[f"layers.3.q.lora_{half}.weight"] *= np.float32(factor**0.5)
    assert outliers(tmp_path / "a", tensors) == found


def test_few_layers_say_nothing_about_what_is_usual(tmp_path: Path) -> None:
    tensors = stack(6)
    for half in ("A", "B"):
        tensors[f"layers.3.q.lora_{half}.weight"] *= np.float32(8)
    assert outliers(tmp_path / "a", tensors) == []


def test_a_family_that_varies_widely_has_no_outlier(tmp_path: Path) -> None:
    tensors = stack()
    for i in range(12):
        tensors[b(i)] *= np.float32(3.0 ** (i - 6))
    assert "large-update" not in outliers(tmp_path / "a", tensors)


def test_one_flipped_bit_is_one_finding(tmp_path: Path) -> None:
    tensors = stack()
    bits = tensors[b(5)].view(np.uint32)
    bits[2, 1] ^= 1 << 30  # the highest of the exponent
    assert outliers(tmp_path / "a", tensors) == ["outlier"]


def test_a_peak_is_seen_in_a_lone_tensor_too(tmp_path: Path) -> None:
    tensors = {"q.lora_A.weight": np.ones((4, 40_000), "f4"), "q.lora_B.weight": np.ones((50, 4), "f4")}
    assert outliers(tmp_path / "a", tensors) == []
    tensors["q.lora_A.weight"][1, 7] = 1000
    assert outliers(tmp_path / "a", tensors) == ["outlier"]


def half_precision(tensors: dict[str, Array], scale: float) -> dict[str, Array]:
    return {n: (v * np.float32(scale)).astype(np.float16) for n, v in tensors.items()}


@pytest.mark.parametrize(("above", "found"), [(1.2, []), (0.8, ["subnormal"])])
def test_float16_is_too_coarse_where_bfloat16_would_be_finer(tmp_path: Path, above: float, found: list[str]) -> None:
    rng = np.random.default_rng(1)
    tensors = {"q.lora_A.weight": rng.standard_normal((4, 5000)).astype("f4"), "q.lora_B.weight": rng.standard_normal((50, 4)).astype("f4")}
    checkpoint = write(tmp_path / "a", half_precision(tensors, above * ROUNDING / LOST))
    assert causes(list(precision_range.check(checkpoint))) == found


def test_the_border_of_float16_is_where_rounding_costs_what_bfloat16_costs() -> None:
    values = np.random.default_rng(2).standard_normal(200_000) * ROUNDING / LOST
    error = values - values.astype(np.float16).astype(np.float64)
    assert np.sqrt((error**2).mean() / (values**2).mean()) == pytest.approx(LOST, rel=0.02)


@pytest.mark.parametrize(("peak", "found"), [(0.99, []), (1.01, ["overflow"])])
def test_an_element_beyond_float16_is_found_exactly(tmp_path: Path, peak: float, found: list[str]) -> None:
    rng = np.random.default_rng(3)
    tensors = {"q.lora_A.weight": rng.uniform(100, 200, (4, 70)), "q.lora_B.weight": rng.uniform(-100, 100, (50, 4))}
    half = half_precision(tensors, 1)
    update = half["q.lora_B.weight"].astype("f8") @ half["q.lora_A.weight"].astype("f8")
    checkpoint = write(tmp_path / "a", half, lora_alpha=4 * peak * LARGEST / np.abs(update).max())
    (spectrum,) = checkpoint.spectra()
    assert spectrum.largest > LARGEST
    assert causes(list(precision_range.check(checkpoint))) == found


def test_half_of_the_directions_padded_with_zeros_is_a_lower_rank(tmp_path: Path) -> None:
    tensors = stack()
    tensors[b(2)][:, 2:] = 0
    (finding,) = rank_deficient.check(write(tmp_path / "a", tensors))
    assert (finding.data["used"], finding.data["rank"], finding.data["examples"]) == (2, 4, ["layers.2.q"])


def test_square_factors_are_no_sign_of_a_lower_rank(tmp_path: Path) -> None:
    a = np.diag([1, 1, 1, 1e-9]).astype("f4")
    assert list(rank_deficient.check(write(tmp_path / "a", {"q.lora_A.weight": a, "q.lora_B.weight": np.eye(4, dtype="f4")}))) == []


def test_copied_layers_are_one_finding(tmp_path: Path) -> None:
    tensors = stack()
    for copy, original in ((1, 0), (5, 4), (6, 4)):
        for half in ("A", "B"):
            tensors[f"layers.{copy}.q.lora_{half}.weight"] = tensors[f"layers.{original}.q.lora_{half}.weight"]
    (finding,) = duplicated_layers.check(write(tmp_path / "a", tensors))
    assert finding.data["groups"] == [[0, 1], [4, 5, 6]]
    tensors[b(1)] = tensors[b(1)][::-1].copy()  # the same values in another order are no copy
    (finding,) = duplicated_layers.check(write(tmp_path / "a", tensors))
    assert finding.data["groups"] == [[4, 5, 6]]


@pytest.mark.parametrize(("magnitude", "found"), [(0, ["zero-magnitude"]), (1, [])])
def test_a_magnitude_of_zeros_erases_its_module(tmp_path: Path, magnitude: float, found: list[str]) -> None:
    tensors = {**stack(2), "layers.1.q.lora_magnitude_vector": np.full(WIDTH, magnitude, "f4")}
    assert causes(list(dead_modules.check(write(tmp_path / "a", tensors, use_dora=True)))) == found


def adapted(directory: Path, modules: list[str]) -> Checkpoint:
    rng = np.random.default_rng(4)
    halves = {m: (rng.standard_normal((4, 9)).astype("f4"), rng.standard_normal((8, 4)).astype("f4")) for m in modules}
    return write(
        directory,
        {f"{m}.lora_{'AB'[i]}.weight": v for m, pair in halves.items() for i, v in enumerate(pair)},
        target_modules=sorted({m.rpartition(".")[2] for m in modules}),
    )


def test_families_have_the_shortest_name_of_their_own(tmp_path: Path) -> None:
    modules = ["encoder.0.attn.q", "encoder.1.attn.q", "decoder.0.self.q", "decoder.0.cross.q", "decoder.0.fc1"]
    found = families(adapted(tmp_path / "a", modules).spectra())
    assert [(f.name, len(f.members)) for f in found] == [("attn.q", 2), ("self.q", 1), ("cross.q", 1), ("fc1", 1)]


def test_only_whole_components_are_numbers() -> None:
    assert template("model.layers.10.block2.fc1.3") == "model.layers.*.block2.fc1.*"


def test_the_table_leaves_dead_modules_out_of_its_medians(tmp_path: Path) -> None:
    tensors = stack(3)
    tensors[b(1)][:] = 0
    (row,) = table(write(tmp_path / "a", tensors).spectra())
    assert (row["modules"], row["zero"], row["rank"]) == (3, 1, 4)
    norm = row["norm"]
    assert isinstance(norm, dict)
    assert 0 < norm["min"] <= norm["median"] <= norm["max"]
