"""The tables of shapes: their algebra, and their formulas against PEFT's own functions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from loradoctor.checkpoint.methods import METHODS
from loradoctor.checkpoint.methods.dims import IN, OUT, R, name, pairs
from loradoctor.checkpoint.methods.fitting import partner, solve
from loradoctor.checkpoint.methods.hadamard import factorization
from loradoctor.checkpoint.methods.orthogonal import adjusted
from loradoctor.checkpoint.methods.projected import category
from loradoctor.checkpoint.methods.table import Table
from loradoctor.checkpoint.methods.tables import table_of
from loradoctor.checkpoint.run import CheckOptions, check

SIZE = st.integers(1, 4096)


@pytest.mark.parametrize("peft_type", sorted(METHODS))
def test_every_method_has_a_table(peft_type: str) -> None:
    assert table_of(peft_type) != Table()


def test_sizes_follow_from_shapes() -> None:
    clashes, sizes = solve({"a": (R, IN), "b": (OUT, R)}, {"a": (4, 12), "b": (24, 4)}, {"r": 4})
    assert (clashes, sizes) == ((), {"r": 4, "in": 12, "out": 24})


def test_a_division_that_does_not_come_out_is_a_clash() -> None:
    clashes, _ = solve({"a": (IN / name("b"), name("b")), "w": (IN,)}, {"a": (3, 5), "w": (16,)}, {})
    assert [c.role for c in clashes] == ["a"]


@given(st.integers(2, 10_000))
def test_a_number_of_pairs_gives_its_size(size: int) -> None:
    assert solve({"r": (pairs("n"),)}, {"r": (size * (size - 1) // 2,)}, {}) == ((), {"n": size})


def test_the_other_half_is_known_by_name() -> None:
    assert [partner(r) for r in ("hada_w1_a", "poly_lora_B", "glora_C.Xd", "ia3_l")] == ["hada_w1_b", "poly_lora_A", "glora_C.Xu", ""]


@settings(deadline=None)
@given(SIZE, st.one_of(st.just(-1), st.integers(1, 64)))
def test_lokr_splits_as_peft_does(size: int, factor: int) -> None:
    layer = pytest.importorskip("peft.tuners.lokr.layer")
    assert factorization(size, factor) == layer.factorization(size, factor)


@settings(deadline=None)
@given(SIZE, SIZE)
def test_oft_adjusts_as_peft_does(size: int, wanted: int) -> None:
    layer = pytest.importorskip("peft.tuners.oft.layer")
    assert adjusted(size, wanted) == layer.OFTLayer.adjust_oft_parameters(None, size, wanted)


@pytest.mark.parametrize(
    "module", ["lin", "layers.0.up", "layers.0.self_attn.q_proj", "encoder.layer.0.attention.output.dense", "x.output.dense"]
)
def test_frod_sorts_modules_as_peft_does(module: str) -> None:
    model = pytest.importorskip("peft.tuners.frod.model")
    assert category(module) == model._category_from_key(module)


def written(tmp_path: Path, tensors: dict[str, tuple[int, ...]], **config: object) -> list[str]:
    random = np.random.default_rng(0)
    names = {f"base_model.model.layers.{i}.q.{n}": s for i in range(3) for n, s in tensors.items()}
    save_file({n: random.random(s, np.float32) for n, s in names.items()}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"target_modules": ["q"], "task_type": None, **config}))
    return [d.code for d in check(str(tmp_path), CheckOptions(base="none")).diagnostics if d.severity.value != "info"]


@pytest.mark.parametrize(("init", "shape"), [(True, (4, 24)), ("bat", (6, 4, 4))])
def test_bone_is_outdated_and_well_formed(tmp_path: Path, init: object, shape: tuple[int, ...]) -> None:
    assert written(tmp_path, {"bone_block": shape}, peft_type="BONE", r=4, init_weights=init) == ["LD521"]
    assert written(tmp_path, {"bone_block": shape}, peft_type="BONE", r=8, init_weights=init) == ["LD521", "LD611"]


def test_rotations_of_early_releases_are_not_read(tmp_path: Path) -> None:
    """PEFT before 0.16 stored a whole matrix for each block, called `oft_r`."""
    assert written(tmp_path, {"oft_r": (3, 4, 4)}, peft_type="OFT", r=3, oft_block_size=0) == ["LD612"]


def test_rank_and_block_size_of_an_early_oft_exclude_each_other(tmp_path: Path) -> None:
    assert "LD522" in written(tmp_path, {"oft_R.weight": (3, 6)}, peft_type="OFT", r=8)


def test_subspaces_come_in_pairs(tmp_path: Path) -> None:
    whole = {"adamss_A.0": (1, 8), "adamss_B.0": (16, 1), "adamss_A.1": (1, 8), "adamss_B.1": (8, 1), "adamss_newB": (8, 25)}
    assert written(tmp_path, whole, peft_type="ADAMSS", r=8, num_subspaces=2) == []
    lost = {n: s for n, s in whole.items() if n != "adamss_B.1"}
    assert written(tmp_path, lost, peft_type="ADAMSS", r=8, num_subspaces=2) == ["LD606"]


def test_a_name_in_the_wrong_case_is_told(tmp_path: Path) -> None:
    found = written(tmp_path, {"miss_block": (4, 24)}, peft_type="MISS", r=4, init_weights="BAT")
    assert found == ["LD522"]


def test_a_name_that_peft_does_not_enforce_is_left_alone(tmp_path: Path) -> None:
    parts = {"shira_weight": (72,), "shira_indices": (2, 72)}
    assert written(tmp_path, parts, peft_type="SHIRA", r=2, mask_type="custom") == []
