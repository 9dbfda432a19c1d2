"""Bases in few bits: what they stand for, what merging into them loses, and what PEFT refuses."""

from __future__ import annotations

import json
import types

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from loradoctor.merge.quantization import KNOWN, of
from loradoctor.oracle.files.weights import BaseWeights, WeightsError
from loradoctor.oracle.model.base import Base, build
from loradoctor.oracle.model.prepared import quantization
from loradoctor.oracle.proof import quantized
from loradoctor.oracle.proof.merge import takes_up_bitsandbytes
from tests.oracle import zoo

pytestmark = pytest.mark.filterwarnings("ignore")

# bitsandbytes/functional.py: the quantiles of a normal distribution, and a float of one sign, two exponent and one mantissa bits.
NF4 = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
       0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]  # fmt: skip
FP4 = [0.0, 0.0052083, 0.6666667, 1.0, 0.3333333, 0.5, 0.1666667, 0.25]
FP4 = FP4 + [-x for x in FP4]
# A stand-in for the 256 levels of the magnitudes, as close to each other.
EIGHT = torch.linspace(-1, 1, 256)

CONFIGS = {
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "nf4-nested": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
    "llm-int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
    "int4": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
    "int8": {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {}},
}


def encode(kind, name, weight):
    """``weight`` as the library stores it: tensors by name."""
    values = weight.float()
    if kind.startswith(("nf4", "fp4")):
        levels = torch.tensor(NF4 if kind.startswith("nf4") else FP4)
        blocks = values.reshape(-1, 64)
        largest = blocks.abs().amax(1)
        codes = (blocks / largest[:, None])[..., None].sub(levels).abs().argmin(-1).reshape(-1, 2).to(torch.uint8)
        state = {"quant_type": kind[:3], "blocksize": 64, "dtype": "bfloat16", "shape": list(weight.shape)}
        found = {name: (codes[:, 0] << 4 | codes[:, 1])[:, None], f"{name}.quant_map": levels}
        if kind.endswith("nested"):
            mean = largest.mean()
            padded = torch.nn.functional.pad(largest - mean, (0, -largest.numel() % 256)).view(-1, 256)
            scale = padded.abs().amax(1)
            small = torch.bucketize(padded / scale[:, None], (EIGHT[1:] + EIGHT[:-1]) / 2).reshape(-1)[: largest.numel()].to(torch.uint8)
            found |= {f"{name}.absmax": small, f"{name}.nested_absmax": scale, f"{name}.nested_quant_map": EIGHT.clone()}
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(mean)}
        else:
            found[f"{name}.absmax"] = largest
        text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        return {**found, f"{name}.quant_state.bitsandbytes__{kind[:3]}": text}
    rows = values.abs().amax(1, keepdim=True)
    if kind == "llm-int8":
        return {name: (values * 127 / rows).round().to(torch.int8), f"{name.removesuffix('weight')}SCB": rows[:, 0]}
    if kind == "int8":
        scale = (rows / 127.5).bfloat16()
        return {name: (values / scale.float()).round().clamp(-128, 127).to(torch.int8), f"{name}_scale": scale}
    if kind == "int4":
        scale = (values.view(values.shape[0], -1, 32).abs().amax(2) / 7.5).bfloat16()
        codes = (values / scale.float().repeat_interleave(32, 1)).round().clamp(-8, 7).to(torch.int32) + 8
        words = (codes.view(codes.shape[0], -1, 8) << torch.arange(0, 32, 4, dtype=torch.int32)).sum(2).to(torch.int32)
        return {f"{name}_packed": words, f"{name}_scale": scale, f"{name}_shape": torch.tensor(weight.shape)}
    scale = values.abs().amax() / 448
    return {name: (values / scale).to(torch.float8_e4m3fn), f"{name}_scale_inv": scale.reshape(1, 1)}


def base(directory, kind, **fields):
    """A base of one kind, and the model that it was quantized from."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "dtype": torch.bfloat16}
    model = zoo.llama(directory, **{**sizes, **fields})
    tensors = load_file(directory / "model.safetensors")
    made = {}
    for name, weight in tensors.items():
        made |= encode(kind, name, weight) if name.endswith("_proj.weight") else {name: weight}
    save_file({k: v.contiguous() for k, v in made.items()}, directory / "model.safetensors", metadata={"format": "pt"})
    declare(directory, CONFIGS[kind])
    return model


def declare(directory, quantization):
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": quantization}))


def of_merging(result):
    return [(d.code, d.severity.value) for d in result.report.diagnostics if d.code.startswith("LD8")]


@pytest.mark.parametrize(
    ("kind", "std", "severity", "dtype"),
    [("nf4", 0.005, "error", "nf4"), ("nf4-nested", 0.005, "error", "nf4"), ("fp4", 0.005, "error", "fp4"),
     ("int4", 0.005, "error", "int4"), ("fp8", 0.005, "warning", "fp8"),
     ("llm-int8", 0.002, "warning", "int8"), ("int8", 0.002, "warning", "int8")],
)  # fmt: skip
def test_a_small_update_is_lost_in_few_bits(examine, tmp_path, kind, std, severity, dtype):
    model = base(tmp_path / "base", kind)
    result = examine(zoo.adapter(tmp_path / "a", model, zoo.lora(), base=tmp_path / "base", std=std))
    found = next(d for d in result.report.diagnostics if d.code == "LD802")
    assert found.severity.value == severity
    assert (found.data["dtype"], found.data["cause"], found.data["keeps"]) == (dtype, "requantized", "bfloat16")
    assert "16-bit base" in found.help


def test_a_large_update_is_kept_in_eight_bits(examine, tmp_path):
    model = base(tmp_path / "base", "llm-int8")
    result = examine(zoo.adapter(tmp_path / "a", model, zoo.lora(), base=tmp_path / "base", std=0.1))
    assert of_merging(result) == []
    assert result.check("merge-equivalence").status == "passed"


@pytest.mark.parametrize("kind", ["fp8", "int4", "int8"])
def test_what_peft_does_not_merge_into_is_said(examine, tmp_path, kind):
    model = base(tmp_path / "base", kind)
    result = examine(zoo.adapter(tmp_path / "a", model, zoo.lora(), base=tmp_path / "base", std=0.1))
    found = next(d for d in result.report.diagnostics if d.code == "LD804")
    assert found.severity.value == "info"
    assert found.data["cause"] == "quantized-base"


@pytest.mark.parametrize("method", ["gptq", "awq", "aqlm", "eetq", "mxfp4", "torchao", "quanto"])
def test_bases_that_only_their_own_library_reads(examine, tmp_path, method):
    model = zoo.llama(tmp_path / "base")
    path = zoo.adapter(tmp_path / "a", model, zoo.lora(), base=tmp_path / "base")
    declare(tmp_path / "base", {"quant_method": method, "bits": 4})
    result = examine(path)
    assert of_merging(result) == [("LD804", "info")]
    assert result.check("merge-equivalence").status == "not-run"
    assert method in result.check("merge-equivalence").reason


def test_a_method_without_a_layer_for_bitsandbytes_is_not_run(examine, tmp_path):
    model = base(tmp_path / "base", "nf4")
    config = peft.LoHaConfig(r=4, target_modules=zoo.TARGETS, task_type="CAUSAL_LM")
    result = examine(zoo.adapter(tmp_path / "a", model, config, base=tmp_path / "base"))
    assert result.check("merge-equivalence").status == "not-run"
    assert "LOHA" in result.check("merge-equivalence").reason


def test_a_trained_bias_loses_its_scaling(examine, tmp_path):
    model = base(tmp_path / "base", "nf4", attention_bias=True)
    config = zoo.lora(target_modules=["q_proj"], lora_bias=True)
    result = examine(zoo.adapter(tmp_path / "a", model, config, base=tmp_path / "base", std=0.5))
    found = next(d for d in result.report.diagnostics if d.code == "LD801")
    assert "without its scaling" in found.message


def test_a_torn_description_is_a_reason(examine, tmp_path):
    model = base(tmp_path / "base", "nf4")
    path = zoo.adapter(tmp_path / "a", model, zoo.lora(), base=tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(file)
    torn = next(name for name in tensors if name.endswith("up_proj.weight.quant_state.bitsandbytes__nf4"))
    tensors[torn] = torch.tensor(list(b'{"shape": [-1], "blocksize": 0}'), dtype=torch.uint8)
    save_file(tensors, file, metadata={"format": "pt"})
    check = examine(path).check("merge-equivalence")
    assert check.status == "not-run"
    assert "does not describe a quantized weight" in check.reason
    with pytest.raises(WeightsError):
        quantized.find(BaseWeights.at(tmp_path / "base"), (torn.partition(".quant_state")[0],), torch.Size((64, 64)))


@pytest.mark.parametrize("part", ["absmax", "quant_map"])
def test_parts_that_do_not_fit_are_a_reason(tmp_path, part):
    base(tmp_path / "base", "nf4")
    name, file = "model.layers.0.mlp.up_proj.weight", tmp_path / "base" / "model.safetensors"
    tensors = load_file(file)
    tensors[f"{name}.{part}"] = tensors[f"{name}.{part}"][:3].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="does not fit"):
        quantized.find(BaseWeights.at(tmp_path / "base"), (name,), torch.Size((128, 64)))


@pytest.mark.parametrize("kind", CONFIGS)
def test_values_are_those_of_the_codes(tmp_path, kind):
    model = base(tmp_path / "base", kind)
    name = "model.layers.0.mlp.up_proj.weight"
    weight = model.get_parameter(name).data
    found = quantized.find(BaseWeights.at(tmp_path / "base"), (name,), weight.shape)
    step = {"llm-int8": 0.01, "int8": 0.01, "fp8": 0.05}.get(kind, 0.2)
    assert float((found - weight.float()).norm() / weight.float().norm()) < step


@pytest.mark.parametrize("kind", ["nf4", "fp4", "llm-int8"])
def test_what_is_quantized_stays_what_it_is(tmp_path, kind):
    base(tmp_path / "base", kind)
    found = quantized.find(BaseWeights.at(tmp_path / "base"), ("model.layers.0.mlp.up_proj.weight",), torch.Size((128, 64)))
    again = quantized.format_of(found).requantised(found)
    assert torch.allclose(again, found, rtol=5e-3, atol=1e-6)


def test_whether_a_method_merges_into_bitsandbytes_is_read_in_peft():
    from peft.tuners.loha.layer import Linear as LohaLinear
    from peft.tuners.lora.layer import Linear
    from peft.tuners.vera.layer import Linear as VeraLinear

    assert takes_up_bitsandbytes(Linear)
    assert takes_up_bitsandbytes(VeraLinear)
    assert not takes_up_bitsandbytes(LohaLinear)


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"compression_config": {"format": "pack-quantized"}}, "compressed-tensors"),
        ({}, None),
    ],
)
def test_the_method_is_found_in_every_config(tmp_path, config, method):
    file = tmp_path / "base" / "config.json"
    zoo.llama(tmp_path / "base")
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    assert quantization(build(str(tmp_path / "base"), {"task_type": "CAUSAL_LM"}, online=False, num_labels=None)) == method


def test_the_method_of_a_part_is_found(tmp_path):
    text = {"model_type": "llama", "hidden_size": 32, "quantization_config": {"quant_method": "awq"}}
    config = transformers.LlavaConfig(text_config=transformers.LlamaConfig(**text))
    assert quantization(Base(types.SimpleNamespace(config=config), "", {}, lambda: None)) == "awq"


@pytest.mark.parametrize(("name", "title"), [("gptq", "GPTQ"), ("compressed_tensors", "compressed-tensors"), ("FBGEMM_FP8", "FP8"), ("new", "new")])
def test_names_of_methods_are_told_as_transformers_does(name, title):
    assert of(name).title == title


def test_a_base_without_quantization_has_none():
    assert of(None) is None
    assert KNOWN["bitsandbytes"].refuses == ""


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_are_those_of_bitsandbytes(kind):
    functional = pytest.importorskip("bitsandbytes.functional")
    values = torch.randn(128, 64, generator=torch.Generator().manual_seed(0)) * 0.02
    codes, state = functional.quantize_4bit(values, blocksize=64, quant_type=kind, compress_statistics=kind == "nf4")
    nested = state.state2.code if state.nested else None
    made = quantized.FourBit(kind, state.code.float(), 64, nested).requantised(values)
    assert torch.allclose(made, functional.dequantize_4bit(codes, state), atol=1e-3)
    assert float((made != functional.dequantize_4bit(codes, state)).float().mean()) < 0.02


def test_eight_bits_are_those_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    values = torch.randn(128, 64, generator=torch.Generator().manual_seed(0)) * 0.02
    codes, scale, _ = functional.int8_vectorwise_quant(values.half())
    assert torch.allclose(quantized.EightBit().requantised(values), codes.float() * scale[:, None] / 127, atol=1e-7)
