"""Statistics against numpy, for every dtype and across the borders of the pieces that are read."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loradoctor.checkpoint.header import read_header
from loradoctor.checkpoint.values import TensorStats, measure, readable

KINDS = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2, "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
FLOATS = [k for k in KINDS if k.startswith(("F", "BF"))]


def stats_of(tmp_path: Path, dtype: str, values: np.ndarray[Any, Any]) -> TensorStats:
    data = (values if values.dtype == KINDS[dtype] else values.astype(KINDS[dtype])).tobytes()
    header = json.dumps({"t": {"dtype": dtype, "shape": list(values.shape), "data_offsets": [0, len(data)]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return measure(path, read_header(path).tensors)["t"]


@pytest.mark.parametrize("dtype", KINDS)
def test_scale_and_zeros_of_every_dtype(tmp_path: Path, dtype: str) -> None:
    values = np.array([[0.0, 1.0, -3.0], [0.0, 2.0, 1.0]])
    stored = values.astype(KINDS[dtype]).astype(np.float64)
    stats = stats_of(tmp_path, dtype, values)
    assert (stats.count, stats.zeros, stats.nans, stats.infs) == (6, 2, 0, 0)
    assert stats.absmax == np.abs(stored).max()
    assert stats.rms == pytest.approx(np.sqrt((stored**2).mean()))


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E5M2"])
def test_nan_and_infinity_are_counted_and_left_out_of_the_scale(tmp_path: Path, dtype: str) -> None:
    stats = stats_of(tmp_path, dtype, np.array([1.0, np.nan, -np.inf, np.inf, 0.0]))
    assert (stats.nans, stats.infs, stats.zeros, stats.absmax) == (1, 2, 1, 1.0)
    assert not stats.is_finite


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_fault_in_the_last_element_of_a_long_tensor_is_found(tmp_path: Path, dtype: str) -> None:
    values = np.full(700_001, 0.5)
    values[-1] = np.nan
    stats = stats_of(tmp_path, dtype, values)
    assert (stats.count, stats.nans, stats.absmax) == (700_001, 1, 0.5)


def test_subnormals_and_negative_zero_of_half_precision(tmp_path: Path) -> None:
    stats = stats_of(tmp_path, "F16", np.array([6e-8, -6e-8, -0.0, 0.0]))
    assert stats.zeros == 2
    assert stats.absmax == float(np.float16(6e-8))


def test_squares_beyond_single_precision_do_not_count_as_infinite(tmp_path: Path) -> None:
    stats = stats_of(tmp_path, "F32", np.full(10, 1e30))
    assert stats.is_finite
    assert stats.rms == pytest.approx(1e30)


def test_constant_means_all_elements_equal(tmp_path: Path) -> None:
    assert stats_of(tmp_path, "F32", np.ones(300_000)).constant
    assert not stats_of(tmp_path, "F32", np.array([1.0, 2.0, 1.0])).constant


def test_an_empty_tensor_is_not_zero(tmp_path: Path) -> None:
    assert not stats_of(tmp_path, "F32", np.empty((0, 4))).is_zero


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FLOATS), st.binary(min_size=8, max_size=400))
def test_any_bits_give_what_numpy_gives(tmp_path: Path, dtype: str, data: bytes) -> None:
    width = np.dtype(KINDS[dtype]).itemsize
    values = np.frombuffer(data[: len(data) // width * width], KINDS[dtype])
    with np.errstate(invalid="ignore"):
        wide = values.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    stats = stats_of(tmp_path, dtype, values)
    assert (stats.nans, stats.infs) == (int(np.isnan(wide).sum()), int(np.isinf(wide).sum()))
    assert stats.zeros == int((finite == 0).sum())
    assert stats.absmax == (np.abs(finite).max() if finite.size else 0.0)
    smallest = float(ml_dtypes.finfo(KINDS[dtype]).smallest_normal)
    assert stats.subnormals == int(((finite != 0) & (np.abs(finite) < smallest)).sum())


@pytest.mark.parametrize(("dtype", "smallest"), [("F16", 2.0**-14), ("BF16", 2.0**-126), ("F32", 2.0**-126), ("F8_E5M2", 2.0**-14)])
def test_numbers_below_the_smallest_normal_one_are_counted(tmp_path: Path, dtype: str, smallest: float) -> None:
    stats = stats_of(tmp_path, dtype, np.array([smallest, smallest / 2, -smallest / 2, 0.0, 1.0]))
    assert (stats.subnormals, stats.zeros) == (2, 1)


def test_dtypes_below_a_byte_are_left_alone() -> None:
    from loradoctor.checkpoint.tensor import TensorInfo

    assert not readable(TensorInfo("F4", (2,), 0, 1))
