"""Other tools' adapters through `repair`: converted, proved, and what PEFT makes of them."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from loradoctor.repair.run import RepairOptions, repair

from .test_catalogue import FILE, load, logits, repaired


@pytest.mark.parametrize("number", ["115", "116", "117"])
def test_a_converted_adapter_acts_as_the_original(number, case, good, bases, tmp_path):
    healthy = good()
    new, _ = repaired(case(number), bases(), tmp_path, scaled=False)
    wanted, found = load_file(healthy / FILE), load_file(new / FILE)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)
    torch.testing.assert_close(logits(load(new)), logits(load(healthy)), atol=1e-6, rtol=1e-6)


@pytest.fixture
def pipeline(tmp_path):
    """A diffusers file with adapters for two models."""
    directory = tmp_path / "pipeline"
    directory.mkdir()
    modules = ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", "unet.down_blocks.0.attentions.0.proj_in")
    tensors = {f"{m}.{half}.weight": torch.ones(4, 4) for m in modules for half in ("lora_A", "lora_B")}
    save_file(tensors, directory / "pytorch_lora_weights.safetensors")
    return directory


def test_a_pipelines_adapters_get_a_directory_each(pipeline, tmp_path):
    outcomes = repair(str(pipeline), RepairOptions(output=str(tmp_path / "new"), base="none"))
    assert [one.status for one in outcomes] == ["repaired", "repaired"]
    assert sorted(str(p.relative_to(tmp_path / "new")) for p in (tmp_path / "new").rglob(FILE)) == [f"text_encoder/{FILE}", f"unet/{FILE}"]
    assert all(len(load_file(p)) == 2 for p in (tmp_path / "new").rglob(FILE))


def test_of_a_pipeline_all_is_converted_or_nothing(pipeline, tmp_path):
    path = pipeline / "pytorch_lora_weights.safetensors"
    tensors = load_file(path)
    save_file({k: t for k, t in tensors.items() if not (k.startswith("unet") and "lora_B" in k)}, path)
    outcomes = repair(str(pipeline), RepairOptions(output=str(tmp_path / "new"), base="none"))
    assert "refused" in [one.status for one in outcomes]
    assert not (tmp_path / "new").exists()
