"""What is in memory while merges are proved: never the base, and of a LoRA layer only a part."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from loradoctor.oracle.examine import examine
from loradoctor.oracle.model import units
from loradoctor.oracle.model.base import is_hollow
from loradoctor.oracle.proof import layers, parts
from tests.oracle import zoo

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS, COLUMNS = 1024, 2048
PART = 2**14


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for tensor in tree_leaves(result):
            # A view of something that is there already is no memory of its own.
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in known:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


class Model(nn.Module):
    def __init__(self, module) -> None:
        super().__init__()
        self.layer = module


def adapted(module, **fields):
    config = peft.LoraConfig(r=4, target_modules=["layer"], init_lora_weights=False, **fields)
    return peft.get_peft_model(Model(module), config).base_model.model.layer


def conv1d():
    from transformers.pytorch_utils import Conv1D

    return Conv1D(ROWS, COLUMNS)


@pytest.mark.parametrize("make", [lambda: nn.Linear(COLUMNS, ROWS), lambda: nn.Embedding(ROWS, COLUMNS), conv1d])
def test_a_lora_layer_is_taken_in_parts(monkeypatch, make):
    monkeypatch.setattr(parts.cut, "__defaults__", (PART, 1))
    layer = adapted(make())
    with Largest() as largest:
        [result] = layers.examine({"layer": layer})
    assert result.status == "equal"
    # In float64; a row or some tokens' worth of inputs and outputs come on top.
    assert largest.bytes <= 2 * 8 * PART
    assert largest.bytes < 8 * ROWS * COLUMNS / 16


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fields", [{}, {"use_dora": True}, {"use_rslora": True}])
def test_parts_give_what_the_whole_gives(monkeypatch, fields, bias):
    layer = adapted(nn.Linear(48, 96, bias=bias).to(torch.bfloat16), **fields)
    [whole] = layers.examine({"layer": layer})
    monkeypatch.setattr(parts.cut, "__defaults__", (48 * 7, 1))
    [some] = layers.examine({"layer": layer})
    assert some.status == whole.status == "equal"
    for field in ("effect", "update", "lost", "largest"):
        assert getattr(some, field) == pytest.approx(getattr(whole, field), rel=1e-5)


def test_parts_give_what_peft_gives_without_them(monkeypatch):
    layer = adapted(nn.Linear(48, 96).to(torch.bfloat16))
    [some] = layers.examine({"layer": layer})
    monkeypatch.setattr(layers, "cut", lambda *_, **__: None)
    [whole] = layers.examine({"layer": layer})
    assert (some.status, some.dtype) == (whole.status, whole.dtype)
    assert some.lost == pytest.approx(whole.lost, rel=1e-4)
    assert some.effect == pytest.approx(whole.effect, rel=1e-4)


def test_the_layer_itself_is_left_as_it_is():
    layer = adapted(nn.Linear(48, 96), lora_bias=True)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layers.examine({"layer": layer})
    assert not layer.merged
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_the_base_is_never_there_as_a_whole(tmp_path, monkeypatch):
    """What is real at any moment is one module's weight."""
    model = zoo.llama(tmp_path / "base")
    path = zoo.adapter(tmp_path / "adapter", model, zoo.lora(), base=tmp_path / "base")
    real = []
    right, find = layers.examine, units.adapted_layers

    def spy(group, *args, **keywords):
        weights = [p for layer in spy.model.values() for p in units.base_parameters(layer).values()]
        real.append(sum(not is_hollow(p.data) for p in weights))
        return right(group, *args, **keywords)

    def adapted_layers(model):
        spy.model = find(model)
        return spy.model

    monkeypatch.setattr(layers, "examine", spy)
    monkeypatch.setattr(units, "adapted_layers", adapted_layers)
    examine({"adapter": str(path), "base": str(tmp_path / "base"), "merge": True}, lambda _: None)
    assert real == [1] * 6


def test_experts_are_taken_a_few_at_a_time(monkeypatch):
    from loradoctor.oracle.proof import experts

    if not hasattr(peft.LoraConfig, "target_parameters"):
        pytest.skip("this PEFT adapts no parameters")

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down_proj = nn.Parameter(torch.randn(32, 64, 128))

        def forward(self, x):
            return x @ self.down_proj

    config = peft.LoraConfig(r=4, target_parameters=["layer.down_proj"], target_modules=[], init_lora_weights=False)
    layer = peft.get_peft_model(Model(Experts()), config).base_model.model.layer
    monkeypatch.setattr(experts, "PART", 64 * 128 * 2)
    with Largest() as largest:
        [result] = layers.examine({"layer": layer})
    assert (result.module, result.status) == ("layer.down_proj", "equal")
    assert largest.bytes <= 2 * 8 * 64 * 128 * 2
