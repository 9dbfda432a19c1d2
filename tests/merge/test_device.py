"""Merges are computed where they are asked for. No accelerator is needed: torch's meta device shows where tensors land."""

from __future__ import annotations

import contextlib

import peft
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from loradoctor.checkpoint.layout import TargetError
from loradoctor.oracle.device import NoDevice, chosen
from loradoctor.oracle.proof import layers, quantized
from loradoctor.oracle.proof.inputs import probe
from loradoctor.oracle.proof.tally import Tally
from tests.oracle import zoo

pytestmark = pytest.mark.filterwarnings("ignore")


class Model(nn.Module):
    def __init__(self, module) -> None:
        super().__init__()
        self.layer = module


def adapted(module, config):
    return peft.get_peft_model(Model(module), config).base_model.model.layer


def lora(**fields):
    return peft.LoraConfig(r=4, target_modules=["layer"], init_lora_weights=False, **fields)


LAYERS = {
    "linear": lambda: adapted(nn.Linear(48, 32), lora()),
    "dora": lambda: adapted(nn.Linear(48, 32), lora(use_dora=True)),
    "bias": lambda: adapted(nn.Linear(48, 32), lora(lora_bias=True)),
    "embedding": lambda: adapted(nn.Embedding(48, 32), lora()),
    "convolution": lambda: adapted(nn.Conv2d(3, 8, 3), lora()),
    "attention": lambda: adapted(nn.MultiheadAttention(32, 4), lora()),
    "loha": lambda: adapted(nn.Linear(48, 32), peft.LoHaConfig(r=4, target_modules=["layer"])),
    "ia3": lambda: adapted(nn.Linear(48, 32), peft.IA3Config(target_modules=["layer"], feedforward_modules=[])),
    "hra": lambda: adapted(nn.Linear(48, 32), peft.HRAConfig(r=4, target_modules=["layer"])),
    "oft": lambda: adapted(nn.Linear(48, 32), peft.OFTConfig(r=0, oft_block_size=4, target_modules=["layer"])),
}


class Heavy(TorchDispatchMode):
    """The devices on which more than a few numbers were multiplied."""

    WORK = frozenset({"mm", "addmm", "bmm", "baddbmm", "convolution", "matmul"})

    def __init__(self) -> None:
        super().__init__()
        self.devices: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in self.WORK:
            self.devices |= {t.device.type for t in tree_leaves((args, result)) if isinstance(t, torch.Tensor)}
        return result


@pytest.fixture
def compared(monkeypatch):
    """Every tensor that results are read from; on the meta device there is nothing to read."""
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(layers.Outputs, "compare", lambda _, *tensors: seen.extend(tensors))
    monkeypatch.setattr(layers, "_left_alone", lambda *tensors: seen.extend(tensors))
    monkeypatch.setattr(Tally, "add", lambda _, *tensors: seen.extend(t for t in tensors if t is not None))
    return seen


@pytest.mark.parametrize("kind", LAYERS)
def test_everything_that_is_compared_lies_on_the_device(compared, kind):
    layer = LAYERS[kind]()
    with Heavy() as heavy:
        [result] = layers.examine({"layer": layer}, device="meta")
    assert result.status == "equal", result.reason
    assert compared
    assert {tensor.device.type for tensor in compared} == {"meta"}
    # What rounding may cost is a property of the adapter alone and is worked out beside it, on the CPU.
    assert "meta" in heavy.devices or kind == "ia3"
    assert next(layer.parameters()).device.type == "cpu"


def test_experts_are_compared_on_the_device(compared, monkeypatch):
    # PEFT switches autocast off around its product, and there is none to switch off on the meta device.
    monkeypatch.setattr(torch, "autocast", lambda **_: contextlib.nullcontext())
    if not hasattr(peft.LoraConfig, "target_parameters"):
        pytest.skip("this PEFT adapts no parameters")

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down_proj = nn.Parameter(torch.randn(4, 16, 8))

    config = peft.LoraConfig(r=4, target_parameters=["layer.down_proj"], target_modules=[], init_lora_weights=False)
    [result] = layers.examine({"layer": peft.get_peft_model(Model(Experts()), config).base_model.model.layer}, device="meta")
    assert result.status == "equal", result.reason
    assert {tensor.device.type for tensor in compared} == {"meta"}


@pytest.mark.parametrize("kind", LAYERS)
def test_inputs_lie_on_the_device(kind):
    assert {tensor.device.type for tensor in probe(LAYERS[kind](), "meta")} == {"meta"}


def test_formats_of_few_bits_stay_on_the_device():
    values = torch.empty(64, 128, device="meta")
    levels = torch.linspace(-1, 1, 16)
    formats = [
        quantized.FourBit("nf4", levels, 64, torch.linspace(-1, 1, 256)),
        quantized.EightBit(),
        quantized.Scaled("fp8", 128, 128, 448.0, torch.float8_e4m3fn),
    ]
    assert {kept.requantised(values).device.type for kept in formats} == {"meta"}


def test_auto_is_the_cpu_where_torch_sees_nothing_else(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert {chosen(asked).type for asked in (None, "", "cpu", "auto")} == {"cpu"}


def test_auto_is_cuda_where_torch_sees_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert chosen("auto") == torch.device("cuda", 1)
    assert chosen("cuda") == torch.device("cuda")
    with pytest.raises(NoDevice, match="2 CUDA devices"):
        chosen("cuda:2")


@pytest.mark.parametrize(("asked", "why"), [("cuda", "sees no CUDA"), ("tpu9", "is no device"), ("meta", "not computed on")])
def test_a_device_that_is_not_here_is_a_reason(monkeypatch, asked, why):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NoDevice, match=why):
        chosen(asked)


def test_insisting_on_cuda_without_it_is_a_usage_error(examine, good, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TargetError, match="`--device cuda`: torch sees no CUDA device"):
        examine(good, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_gives_the_numbers_of_the_cpu(examine, tmp_path, dtype):
    model = zoo.llama(tmp_path / "base", dtype=dtype)
    path = zoo.adapter(tmp_path / "a", model, zoo.lora(target_modules="all-linear"), base=tmp_path / "base")
    rows = {device: examine(path, device=device).report.subjects[0].facts["merge"] for device in ("cpu", "cuda")}
    for here, there in zip(rows["cpu"], rows["cuda"], strict=True):
        assert (here["module"], here["status"]) == (there["module"], there["status"])
        assert there["difference"] <= there["bound"]
        assert there["lost"] == pytest.approx(here["lost"], rel=1e-3)
        assert there["effect"] == pytest.approx(here["effect"], rel=1e-6)
