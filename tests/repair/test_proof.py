"""A proof is worth what it would not let pass: each of these results is wrong in one way."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from loradoctor.checkpoint.checkpoint import read
from loradoctor.checkpoint.layout import Place
from loradoctor.oracle.client import ask
from loradoctor.repair import arrays, proof
from loradoctor.repair.plan import NEGATE, TRANSPOSE, Origin, Plan, Source, TensorStep, Transform, cast, permute, reshape, section
from loradoctor.repair.scales import scaling
from loradoctor.repair.source import opened
from loradoctor.repair.write import write

from .test_catalogue import FILE


@pytest.fixture
def source(good):
    """A healthy adapter as read."""
    directory = good()
    return opened(Place(str(directory), directory))


def written(plan, tmp_path):
    to = tmp_path / "to"
    to.mkdir()
    write(plan, to)
    return read(str(to), to)


def changed(plan, part, **more):
    """The plan with the step of the first tensor named so made in another way."""
    name = next(s.target for s in plan.tensors if part in s.target)
    return replace(plan, tensors=tuple(replace(s, **more) if s.target == name else s for s in plan.tensors))


def test_a_flipped_bit_is_seen(source, tmp_path):
    result = written(source.plan, tmp_path)
    assert proof.stored(source.plan, result.directory).status == "passed"
    data = bytearray((result.directory / FILE).read_bytes())
    data[-1] ^= 1
    (result.directory / FILE).write_bytes(data)
    assert "was not written as planned" in proof.stored(source.plan, result.directory).detail


def test_a_tensor_too_few_is_seen(source, tmp_path):
    result = written(replace(source.plan, tensors=source.plan.tensors[1:]), tmp_path)
    assert "other tensors" in proof.stored(source.plan, result.directory).detail


def test_a_sign_too_many_is_seen(source, tmp_path):
    plan = changed(source.plan, "q_proj.lora_B", transforms=(NEGATE,))
    result = written(plan, tmp_path)
    assert proof.stored(plan, result.directory).status == "passed"
    assert proof.updates(plan, result).status == "failed"


def test_another_scale_is_seen(source, tmp_path):
    plan = replace(source.plan, config={**source.plan.config, "lora_alpha": 16})
    result = written(plan, tmp_path)
    assert "scaled by 2.0 and would be by 4.0" in scaling(plan, source.checkpoint, result).detail


def test_peft_is_asked_about_the_file_not_the_plan(source, bases, tmp_path):
    result = written(source.plan, tmp_path)
    request = {"task": "probe", "adapter": str(result.directory), "base": bases(), "modules": list(result.by_module)}
    right = ask(request, python=None, timeout=120)
    assert "12 of 12" in proof.probed(source.plan, result, right).detail
    tensors = load_file(result.directory / FILE)
    name = next(n for n in tensors if "lora_A" in n)
    save_file({**tensors, name: tensors[name].flip(0)}, result.directory / FILE)
    wrong = proof.probed(source.plan, result, ask(request, python=None, timeout=120))
    assert (wrong.status, "on the probe" in wrong.detail) == ("failed", True)


def test_what_peft_does_not_load_is_seen(source, bases, tmp_path):
    result = written(source.plan, tmp_path)
    tensors = load_file(result.directory / FILE)
    save_file({k: t for k, t in tensors.items() if "up_proj" not in k}, result.directory / FILE)
    request = {"task": "probe", "adapter": str(result.directory), "base": bases()}
    assert "4 missing" in proof.probed(source.plan, result, ask(request, python=None, timeout=120)).detail


@pytest.fixture
def matrix(tmp_path):
    """A plan with one tensor of 4 x 6 numbers, and its values."""
    values = np.arange(24, dtype="<f4").reshape(4, 6)
    from safetensors.numpy import save_file as save

    save({"m": values, "n": values + 100}, tmp_path / "m.safetensors")
    from loradoctor.checkpoint.header import read_header

    tensors = read_header(tmp_path / "m.safetensors").tensors
    return Plan({k: Origin(tmp_path / "m.safetensors", i) for k, i in tensors.items()}, (), {}), values


@pytest.mark.parametrize(
    ("transforms", "wanted"),
    [
        ((TRANSPOSE,), lambda m: m.T),
        ((reshape(2, 2, 6), permute(1, 0, 2), reshape(-1, 6)), lambda m: m.reshape(2, 2, 6).transpose(1, 0, 2).reshape(4, 6)),
        ((section(1, 2, 5),), lambda m: m[:, 2:5]),
        ((NEGATE,), lambda m: -m),
        ((cast("F64"),), lambda m: m.astype("f8")),
    ],
    ids=["transpose", "interleaved rows", "slice", "negate", "cast"],
)
def test_transforms_are_numpys(transforms, wanted, matrix):
    plan, values = matrix
    step = TensorStep.of("t", "m", *transforms)
    made = arrays.array(plan, step)
    assert made.dtype == wanted(values).dtype
    np.testing.assert_array_equal(made, wanted(values))
    info = arrays.result_of(plan, step)
    assert (info.shape, info.nbytes) == (made.shape, made.nbytes)
    assert b"".join(arrays.pieces(plan, step)) == made.tobytes()


def test_sources_are_joined_in_order(matrix):
    plan, values = matrix
    step = TensorStep("t", (Source("m"), Source("n", (NEGATE,))), axis=1)
    np.testing.assert_array_equal(arrays.array(plan, step), np.concatenate([values, -(values + 100)], 1))
    assert arrays.result_of(plan, step).shape == (4, 12)


@pytest.mark.parametrize("transforms", [(reshape(5, 5),), (reshape(-1, 7),), (Transform("rotate"),)])
def test_what_does_not_fit_is_told_before_anything_is_written(transforms, matrix):
    plan, _ = matrix
    with pytest.raises(arrays.Inexact):
        arrays.result_of(plan, TensorStep.of("t", "m", *transforms))


def test_a_large_tensor_is_never_whole_in_memory(tmp_path):
    import tracemalloc

    from safetensors.numpy import save_file as save

    save({"m": np.zeros((64, 1 << 20), "<f4")}, tmp_path / "m.safetensors")
    from loradoctor.checkpoint.header import read_header

    plan = Plan(
        {"m": Origin(tmp_path / "m.safetensors", read_header(tmp_path / "m.safetensors").tensors["m"])}, (TensorStep.of("m", "m"),), {}
    )
    (tmp_path / "to").mkdir()
    tracemalloc.start()
    write(plan, tmp_path / "to")
    assert proof.stored(plan, tmp_path / "to").status == "passed"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    assert json.loads((tmp_path / "to" / "adapter_config.json").read_text()) == {}
