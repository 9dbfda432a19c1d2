"""Planted faults: each is named, alone, in every dtype, in one file and in shards."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from loradoctor.checkpoint.run import CheckOptions, check_many
from tests.merge import planted

pytestmark = pytest.mark.filterwarnings("ignore")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """(base, adapter) in a dtype; ``fields`` are the adapter's."""

    @functools.cache
    def make(dtype: str, std: float = 0.05, **fields) -> tuple[Path, Path]:
        root = tmp_path_factory.mktemp(f"audit-{dtype}")
        planted.model(root / "base", DTYPES[dtype])
        return root / "base", planted.trained(root / "adapter", root / "base", DTYPES[dtype], std, **fields)

    return make


def scaled(factor):
    def plant(base, deltas):
        return planted.merged(base, {n: factor * d for n, d in deltas.items()})

    return plant


def twice(base, deltas):
    return planted.merged(planted.merged(base, deltas), deltas)


def partly(base, deltas):
    return planted.merged(base, {n: d for n, d in deltas.items() if ".layers.2." not in n and "up_proj" not in n})


def transposed(base, deltas):
    return planted.merged(base, {n: d.T if d.shape[0] == d.shape[1] else d for n, d in deltas.items()})


def reshaped(base, deltas):
    return planted.merged(base, {n: d.T.reshape(d.shape) for n, d in deltas.items()})


def shifted(base, deltas):
    other = {n: deltas.get(n.replace(f".layers.{i}.", f".layers.{i + 1}.")) for i in range(planted.LAYERS) for n in deltas if f".layers.{i}." in n}
    return planted.merged(base, {n: d for n, d in other.items() if d is not None})


def shifted_around(base, deltas):
    """The last layer gets the update of the first."""
    next_ = {i: (i + 1) % planted.LAYERS for i in range(planted.LAYERS)}
    other = {n: deltas[n.replace(f".layers.{i}.", f".layers.{next_[i]}.")] for i in next_ for n in deltas if f".layers.{i}." in n}
    return planted.merged(base, other)


def shifted_back(base, deltas):
    other = {n: deltas.get(n.replace(f".layers.{i}.", f".layers.{i - 2}.")) for i in range(planted.LAYERS) for n in deltas if f".layers.{i}." in n}
    return planted.merged(base, {n: d for n, d in other.items() if d is not None})


def other_targets(base, deltas):
    """Another adapter, which has one target more and one fewer."""
    right = other_adapter(base, deltas)
    generator = torch.Generator().manual_seed(9)
    for name in [n for n in base if "k_proj" in n]:
        w = base[name]
        update = torch.randn(w.shape[0], 4, generator=generator) @ torch.randn(4, w.shape[1], generator=generator) * 0.02
        right[name] = (w.float() + update).to(w.dtype)
    return {n: base[n] if "up_proj" in n else w for n, w in right.items()}


def other_adapter(base, deltas):
    generator = torch.Generator().manual_seed(7)
    return planted.merged(base, {n: torch.randn(d.shape[0], 8, generator=generator) @ torch.randn(8, d.shape[1], generator=generator) * d.std() / 3
                                 for n, d in deltas.items()})  # fmt: skip


def later_checkpoint(base, deltas):
    foreign = {n: m.float() - base[n].float() for n, m in other_adapter(base, deltas).items() if n in deltas}
    return planted.merged(base, {n: d + 0.3 * foreign[n] for n, d in deltas.items()})


def other_base(base, deltas):
    generator = torch.Generator().manual_seed(5)
    changed = {n: (w.float() + 0.02 * torch.randn(w.shape, generator=generator)).to(w.dtype) for n, w in base.items()}
    return planted.merged(changed, deltas)


def quantized(base, deltas):
    """As PEFT merges after QLoRA, here with nf4: every linear layer went through four bits."""
    from loradoctor.oracle.audit.requantized import _FORMATS

    taken_up = {n: _FORMATS[0].requantised(w.float()).to(w.dtype) if "proj" in n else w for n, w in base.items()}
    return planted.merged(taken_up, deltas)


def changed_elsewhere(base, deltas):
    right = planted.merged(base, deltas)
    right["model.layers.1.self_attn.k_proj.weight"] = right["model.layers.1.self_attn.k_proj.weight"] * 1.5
    return right


def damaged(base, deltas):
    right = planted.merged(base, deltas)
    weight = right["model.layers.1.mlp.up_proj.weight"].clone()
    weight[3, 5] += 1
    return {**right, "model.layers.1.mlp.up_proj.weight": weight}


def trained_on(base, deltas):
    generator = torch.Generator().manual_seed(3)
    right = planted.merged(base, deltas)
    name = "model.layers.1.mlp.up_proj.weight"
    return {**right, name: (right[name].float() + 0.02 * torch.randn(right[name].shape, generator=generator)).to(right[name].dtype)}


FAULTS = {
    "not-merged": ("LD810", scaled(0), {}),
    "partly-merged": ("LD810", partly, {}),
    "merged-twice": ("LD811", twice, {}),
    "subtracted": ("LD811", scaled(-1), {}),
    "alpha-ignored": ("LD811", scaled(8 / 12), {}),
    "rank-ignored": ("LD811", scaled(8), {}),
    "rslora-assumed": ("LD811", scaled(8**0.5), {}),
    "rslora-ignored": ("LD811", scaled(8**-0.5), {"use_rslora": True}),
    "wrong-scale": ("LD811", scaled(1.3), {}),
    "transposed": ("LD811", transposed, {}),
    "transposed and reshaped": ("LD811", reshaped, {}),
    "shifted-layers": ("LD811", shifted, {}),
    "shifted-layers around": ("LD811", shifted_around, {}),
    "shifted-layers back": ("LD811", shifted_back, {}),
    "other-adapter": ("LD811", other_adapter, {}),
    "other-adapter elsewhere": ("LD811", other_targets, {}),
    "other-adapter later": ("LD811", later_checkpoint, {}),
    "other-base": ("LD812", other_base, {}),
    "quantized-base": ("LD812", quantized, {}),
    "weights-changed": ("LD812", changed_elsewhere, {}),
    "unexplained": ("LD815", damaged, {}),
    "unexplained training": ("LD815", trained_on, {}),
}


@pytest.mark.parametrize("sharded", [False, True], ids=["single", "sharded"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_cause_is_named(in_process, made, tmp_path, fault, dtype, sharded):
    code, plant, fields = FAULTS[fault]
    base, adapter = made(dtype, **fields)
    state = plant(planted.weights(base), planted.updates(adapter))
    directory = planted.write(tmp_path / "merged", state, base, sharded=sharded)
    report = check_many([str(adapter)], CheckOptions(merged=str(directory), merge=False))
    found = [(d.code, d.data["cause"]) for d in report.diagnostics if d.code.startswith("LD81")]
    assert found == [(code, fault.partition(" ")[0])], [(d.code, d.message, d.data) for d in report.diagnostics]
    (entry,) = [c for c in report.checks if c.name == "merged-copy"]
    assert entry.status == "failed"
    assert entry.measured > entry.bound


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_an_update_that_rounding_took(in_process, made, tmp_path, dtype):
    base, adapter = made(dtype, std=0.05)
    # The same update a thousand times smaller, in an adapter of its own.
    base, adapter = made(dtype, std=0.05, lora_alpha=0.004 if dtype == "bf16" else 0.0005)
    state = planted.merged(planted.weights(base), planted.updates(adapter))
    directory = planted.write(tmp_path / "merged", state, base)
    report = check_many([str(adapter)], CheckOptions(merged=str(directory), merge=False))
    assert [(d.code, d.data["cause"]) for d in report.diagnostics if d.code.startswith("LD81")] == [("LD810", "rounded-away")]
