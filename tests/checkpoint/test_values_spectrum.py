"""Spectra from r x r cores against numpy's decomposition of the whole update; what one pass reads and holds."""

from __future__ import annotations

import json
import shutil
import struct
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loradoctor.checkpoint import delta
from loradoctor.checkpoint.checkpoint import Checkpoint, read
from loradoctor.checkpoint.spectrum import Spectrum, singular_values
from loradoctor.checkpoint.values import bits, reading

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2, "I8": np.int8, "I32": np.int32,
}  # fmt: skip
CONFIG = {"peft_type": "LORA", "task_type": None, "base_model_name_or_path": "b", "r": 4, "lora_alpha": 8, "target_modules": ["q"]}
PREFIX = "base_model.model."


def write(directory: Path, tensors: Mapping[str, Array], **config: object) -> Checkpoint:
    """An adapter directory with these tensors (names without the prefix); an earlier one is replaced."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    header, blocks, offset = {}, [], 0
    for name, values in tensors.items():
        dtype = next(k for k, v in DTYPES.items() if v == values.dtype)
        data = np.ascontiguousarray(values).tobytes()
        header[PREFIX + name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [offset, offset + len(data)]}
        blocks.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    (directory / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blocks))
    (directory / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    return read(str(directory), directory)


def halves(rng: np.random.Generator, rank: int, wide: int, tall: int, dtype: str = "F32") -> tuple[Array, Array]:
    scale = 20 if dtype.startswith("I") else 0.1
    a, b = rng.standard_normal((rank, wide)) * scale, rng.standard_normal((tall, rank)) * scale
    return a.astype(DTYPES[dtype]), b.astype(DTYPES[dtype])


def product(scaling: float, b: Array, a: Array) -> Array:
    return scaling * b.astype(np.float64) @ a.astype(np.float64)


def wanted(update: Array) -> Array:
    return np.linalg.svd(update, compute_uv=False)


def agree(spectrum: Spectrum, update: Array, tolerance: float = 1e-9) -> None:
    """Equal up to ``tolerance`` of the largest; there is nothing beyond the values that the rank allows."""
    values = wanted(update)
    count = len(spectrum.values)
    assert count == min(spectrum.rank, *update.shape)
    assert np.abs(spectrum.values - values[:count]).max() <= tolerance * max(values[0], 1e-300)
    assert spectrum.norm == pytest.approx(np.linalg.norm(update), rel=1e-8)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    rank=st.integers(1, 9),
    wide=st.integers(1, 40),
    tall=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    alpha=st.sampled_from([8, 1, 0.5, -3, 64]),
    rslora=st.booleans(),
)
def test_cores_give_what_numpy_gives_of_the_whole_update(
    tmp_path: Path, dtype: str, rank: int, wide: int, tall: int, seed: int, alpha: float, rslora: bool
) -> None:
    a, b = halves(np.random.default_rng(seed), rank, wide, tall, dtype)
    checkpoint = write(tmp_path / "a", {"q.lora_A.weight": a, "q.lora_B.weight": b}, r=rank, lora_alpha=alpha, use_rslora=rslora)
    scaling = alpha / (rank**0.5 if rslora else rank)
    update = product(scaling, b, a)
    if not update.any():
        return
    (spectrum,) = checkpoint.spectra()
    # Halves wider than high are dependent: their Gram matrices are singular and leave the root of the machine's precision.
    agree(spectrum, update, 1e-7 if rank > min(wide, tall) else 1e-9)


@settings(max_examples=60, deadline=None)
@given(rank=st.integers(2, 12), used=st.integers(0, 11), spread=st.integers(0, 30), seed=st.integers(0, 2**32 - 1))
def test_badly_scaled_and_dependent_halves_keep_their_digits(rank: int, used: int, spread: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-spread / 2, spread / 2, rank)
    a, b = rng.standard_normal((rank, 50)), rng.standard_normal((60, rank))
    a, b = a * scales[:, None], b / scales  # undone by the product: only the halves are badly scaled
    a[min(used, rank) :] = 0
    found = singular_values((b.T @ b)[None], (a @ a.T)[None])[0]
    values = wanted(b @ a)[:rank]
    assert np.abs(found - values).max() <= 1e-7 * max(values[0], 1e-300)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_halves_larger_than_a_piece_are_added_up(tmp_path: Path, dtype: str) -> None:
    a, b = halves(np.random.default_rng(1), 24, 15_001, 13_001, dtype)
    assert min(a.nbytes, b.nbytes) > 2 * bits.PIECE
    checkpoint = write(tmp_path / "a", {"q.lora_A.weight": a, "q.lora_B.weight": b}, r=24, lora_alpha=24)
    (spectrum,) = checkpoint.spectra()
    inner = np.linalg.qr(b.astype(np.float64))[1] @ np.linalg.qr(a.astype(np.float64).T)[1].T
    agree(spectrum, inner)
    for name, half in (("A", a), ("B", b)):
        stats = checkpoint.values()[f"{PREFIX}q.lora_{name}.weight"]
        assert (stats.count, stats.absmax) == (half.size, np.abs(half.astype(np.float64)).max())
        assert stats.rms == pytest.approx(np.sqrt((half.astype(np.float64) ** 2).mean()))


def test_embeddings_and_convolutions_are_products_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    vocabulary, embedding = halves(rng, 4, 90, 12)
    kernel, mix = rng.standard_normal((4, 6, 3, 3)).astype("f4"), rng.standard_normal((10, 4, 1, 1)).astype("f4")
    checkpoint = write(
        tmp_path / "a",
        {
            "e.lora_embedding_A": vocabulary, "e.lora_embedding_B": embedding, "c.lora_A.weight": kernel, "c.lora_B.weight": mix,
        },
        target_modules=["e", "c"],
    )  # fmt: skip
    found = {s.module: s for s in checkpoint.spectra()}
    agree(found["e"], product(2, embedding, vocabulary))
    agree(found["c"], product(2, mix.reshape(10, 4), kernel.reshape(4, -1)))


def test_patterns_scale_their_module_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    (a, b), (c, d) = halves(rng, 4, 30, 20), halves(rng, 2, 30, 20)
    checkpoint = write(
        tmp_path / "a",
        {"q.lora_A.weight": a, "q.lora_B.weight": b, "v.lora_A.weight": c, "v.lora_B.weight": d},
        target_modules=["q", "v"], rank_pattern={"v": 2}, alpha_pattern={"v": 5},
    )  # fmt: skip
    first, second = checkpoint.spectra()
    agree(first, product(2, b, a))
    agree(second, product(2.5, d, c))


def test_the_magnitude_of_dora_is_left_aside(tmp_path: Path) -> None:
    a, b = halves(np.random.default_rng(4), 4, 30, 20)
    tensors = {"q.lora_A.weight": a, "q.lora_B.weight": b, "q.lora_magnitude_vector": np.ones(20, "f4")}
    (spectrum,) = write(tmp_path / "a", tensors, use_dora=True).spectra()
    agree(spectrum, product(2, b, a))


def test_every_expert_has_its_own_product(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    experts, rank = 3, 4
    a, b = halves(rng, experts * rank, 30, 20)
    tensors = {"mlp.experts.lora_A.weight": a, "mlp.experts.lora_B.weight": b}
    found = write(tmp_path / "a", tensors, target_parameters=["mlp.experts.down_proj"], target_modules=[]).spectra()
    assert [s.expert for s in found] == [0, 1, 2]
    for spectrum in found:
        expert = spectrum.expert or 0
        agree(spectrum, product(2, b.reshape(20, rank, experts)[:, :, expert], a.reshape(experts, rank, 30)[expert]))


@pytest.mark.parametrize("spoiling", [np.nan, np.inf, -np.inf])
def test_a_module_with_a_value_that_is_no_number_has_no_spectrum(tmp_path: Path, spoiling: float) -> None:
    rng = np.random.default_rng(6)
    (a, b), (c, d) = halves(rng, 4, 30, 20), halves(rng, 4, 30, 20)
    b[-1, -1] = spoiling
    tensors = {"q.lora_A.weight": a, "q.lora_B.weight": b, "v.lora_A.weight": c, "v.lora_B.weight": d}
    assert [s.module for s in write(tmp_path / "a", tensors, target_modules=["q", "v"]).spectra()] == ["v"]


@pytest.mark.parametrize(("a", "b", "alpha"), [(1e200, 1.0, 8), (1e150, 1e150, 8), (1.0, 1.0, 1e300), (1e-200, 1e200, 8)])
def test_updates_beyond_double_precision_have_no_spectrum(tmp_path: Path, a: float, b: float, alpha: float) -> None:
    tensors = {"q.lora_A.weight": np.full((4, 9), a), "q.lora_B.weight": np.full((7, 4), b)}
    checkpoint = write(tmp_path / "a", tensors, lora_alpha=alpha)
    assert checkpoint.spectra() == ()
    assert checkpoint.values_failure == ""


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.lists(st.floats(width=64), min_size=16, max_size=16),
    alpha=st.floats(allow_nan=False, allow_infinity=False),
    diagonal=st.booleans(),
)
def test_no_double_is_too_odd(tmp_path: Path, numbers: list[float], alpha: float, diagonal: bool) -> None:
    values = np.array(numbers)
    tensors = {"q.lora_A.weight": values[:6].reshape(2, 3), "q.lora_B.weight": values[6:14].reshape(4, 2)}
    if diagonal:
        tensors["q.lora_diag"] = values[14:]
    for spectrum in write(tmp_path / "a", tensors, r=2, lora_alpha=alpha).spectra():
        assert all(np.isfinite([spectrum.norm, spectrum.largest, spectrum.effective_rank, spectrum.dominance]))


@pytest.mark.parametrize("tensors", [{"q.lora_A.weight": (4, 9)}, {"q.lora_A.weight": (4, 9), "q.lora_B.weight": (7, 3)}])
def test_halves_that_do_not_fit_have_no_spectrum(tmp_path: Path, tensors: dict[str, tuple[int, int]]) -> None:
    assert write(tmp_path / "a", {n: np.ones(s, "f4") for n, s in tensors.items()}).spectra() == ()


@pytest.mark.parametrize(("values", "norm", "effective", "dominance", "directions"), [
    ([2.0, 2.0, 2.0, 2.0], 4.0, 4.0, 0.25, 4),
    ([3.0, 0.0, 0.0, 0.0], 3.0, 1.0, 1.0, 1),
    ([0.0, 0.0, 0.0, 0.0], 0.0, 0.0, 0.0, 0),
])  # fmt: skip
def test_what_the_numbers_mean(values: list[float], norm: float, effective: float, dominance: float, directions: int) -> None:
    spectrum = Spectrum("m", None, 4, (9, 9), np.array(values))
    assert (spectrum.norm, spectrum.directions) == (norm, directions)
    assert spectrum.effective_rank == pytest.approx(effective)
    assert spectrum.dominance == pytest.approx(dominance)


class Counting:
    """A file that counts the bytes that are read from it."""

    def __init__(self, path: Path) -> None:
        self.file, self.read = path.open("rb", buffering=0), 0

    def __enter__(self) -> Counting:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def seek(self, position: int) -> int:
        return self.file.seek(position)

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer)
        self.read += count or 0
        return count


def test_every_byte_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    tensors: dict[str, Array] = {}
    for module, rank, wide, tall in (("q", 4, 70_001, 300), ("k", 4, 300, 70_001), ("v", 4, 10, 10)):
        tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = halves(rng, rank, wide, tall)
    tensors["head.weight"] = rng.standard_normal((500, 300)).astype("f4")
    checkpoint = write(tmp_path / "a", tensors, target_modules=["q", "k", "v"], modules_to_save=["head"])
    opened: list[Counting] = []

    def counted(path: Path) -> Counting:
        opened.append(Counting(path))
        return opened[-1]

    monkeypatch.setattr("loradoctor.checkpoint.values.opened", counted)
    assert len(checkpoint.values()) == 7
    assert len(checkpoint.spectra()) == 3
    assert sum(f.read for f in opened) == sum(v.nbytes for v in tensors.values())


@pytest.mark.parametrize("order", ["together", "all halves A first"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, order: str) -> None:
    rng = np.random.default_rng(8)
    a, b = halves(rng, 64, 4096, 4096)
    names = [f"layers.{i}.q" for i in range(24)]
    parts = [("A", a), ("B", b)]
    pairs = [(n, p) for n in names for p in parts] if order == "together" else [(n, p) for p in parts for n in names]
    checkpoint = write(tmp_path / "a", {f"{n}.lora_{half}.weight": v for n, (half, v) in pairs}, r=64)
    size = checkpoint.weights.stat().st_size if checkpoint.weights else 0
    checkpoint.by_module  # noqa: B018 -- names are not what is measured
    tracemalloc.start()
    assert len(checkpoint.spectra()) == 24
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 48_000_000
    assert peak < 16_000_000


def test_a_rank_beyond_the_limit_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta, "LARGEST_RANK", 3)
    a, b = halves(np.random.default_rng(9), 4, 30, 20)
    checkpoint = write(tmp_path / "a", {"q.lora_A.weight": a, "q.lora_B.weight": b})
    assert checkpoint.spectra() == ()
    assert len(checkpoint.values()) == 2


def test_equal_tensors_are_told_from_almost_equal_ones(tmp_path: Path) -> None:
    values = np.zeros(300_000, "f4")
    other = values.copy()
    other[-1] = 1
    checkpoint = write(tmp_path / "a", {"x": values, "y": values, "z": other})
    assert checkpoint.weights is not None
    x, y, z = (checkpoint.tensors[PREFIX + n] for n in "xyz")
    assert reading.same_bytes(checkpoint.weights, x, y)
    assert not reading.same_bytes(checkpoint.weights, x, z)
