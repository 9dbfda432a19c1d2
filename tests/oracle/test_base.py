"""Finding the base model and reading its weights."""

from __future__ import annotations

import json
import shutil

import pytest

from loradoctor.checkpoint.layout import TargetError
from loradoctor.oracle.files.weights import BaseWeights
from tests.oracle import zoo

pytestmark = pytest.mark.filterwarnings("ignore")


def renamed(good, path, reference):
    return zoo.edited(good, path, config={"base_model_name_or_path": reference})


def test_base_beside_the_adapter(examine, good, base, tmp_path):
    shutil.copytree(base, tmp_path / "tiny-llama")
    path = renamed(good, tmp_path / "adapter", "org/tiny-llama")
    assert examine(path).check("loads").status == "passed"


def test_base_in_the_hub_cache(examine, good, base, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    root = tmp_path / "hub" / "models--org--cached"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("abc")
    shutil.copytree(base, root / "snapshots" / "abc")
    path = renamed(good, tmp_path / "x" / "adapter", "org/cached")
    assert examine(path).check("merge-equivalence").status == "passed"


def test_base_that_is_nowhere_is_said_to_be(examine, good, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    result = examine(renamed(good, tmp_path / "x" / "adapter", "org/nowhere"))
    assert result.codes == []
    for name in ("loads", "merge-equivalence"):
        assert result.check(name).status == "not-run"
        assert "`org/nowhere` is not on this machine" in result.check(name).reason


def test_config_without_a_base(examine, good, tmp_path):
    result = examine(renamed(good, tmp_path / "adapter", None))
    assert "names no base model" in result.check("loads").reason


@pytest.mark.parametrize("insisted", ["/nowhere/at/all", "org/nowhere"])
def test_an_insisted_base_must_be_had(examine, good, tmp_path, monkeypatch, insisted):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(TargetError, match="the base"):
        examine(good, base=insisted)


def test_an_insisted_directory_must_be_a_model(examine, good, tmp_path):
    with pytest.raises(TargetError, match=r"no `config\.json`"):
        examine(good, base=str(tmp_path))


def test_an_insisted_base_replaces_the_one_in_the_config(examine, good, base, tmp_path):
    path = renamed(good, tmp_path / "adapter", "org/nowhere")
    assert examine(path, base=str(base)).check("loads").status == "passed"


def test_base_without_weights_is_enough_to_load(examine, good, base, tmp_path):
    shutil.copytree(base, tmp_path / "config-only", ignore=shutil.ignore_patterns("*.safetensors"))
    result = examine(good, base=str(tmp_path / "config-only"))
    assert result.check("loads").status == "passed"
    assert result.check("merge-equivalence").reason == "the base has no weights here (only its config)"


def test_unreadable_base_weights_are_not_a_crash(examine, good, base, tmp_path):
    shutil.copytree(base, tmp_path / "torn")
    (tmp_path / "torn" / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    result = examine(good, base=str(tmp_path / "torn"))
    assert result.check("loads").status == "passed"
    assert "`model.safetensors` is a Git LFS pointer" in result.check("merge-equivalence").reason


@pytest.mark.parametrize("architecture", [{"model_type": "no-such-model"}, {"model_type": "x", "auto_map": {"AutoConfig": "evil.Config"}}])
def test_base_that_cannot_be_built(examine, good, tmp_path, architecture):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text(json.dumps(architecture))
    (tmp_path / "odd" / "evil.py").write_text("raise SystemExit('executed')")
    result = examine(good, base=str(tmp_path / "odd"))
    assert result.codes == []
    assert result.check("loads").status == "not-run"
    assert "cannot be built" in result.check("loads").reason


def test_without_merging(examine, good):
    result = examine(good, merge=False)
    assert result.check("loads").status == "passed"
    assert (result.check("merge-equivalence").status, result.check("merge-equivalence").reason) == ("not-run", "`--no-merge`")


@pytest.mark.parametrize("layout", ["sharded", "bin", "old-bin", "sharded-bin"])
def test_weights_in_other_files(examine, good, base, tmp_path, layout):
    import torch
    import transformers

    target = tmp_path / layout
    model = transformers.LlamaForCausalLM.from_pretrained(base)
    if layout == "sharded":
        model.save_pretrained(target, max_shard_size="20KB")
        assert len(list(target.glob("*.safetensors"))) > 1
    else:
        shutil.copytree(base, target, ignore=shutil.ignore_patterns("*.safetensors"))
        state = model.state_dict()
        if layout == "sharded-bin":
            names = sorted(state)
            halves = {"a.bin": names[::2], "b.bin": names[1::2]}
            for file, keys in halves.items():
                torch.save({k: state[k] for k in keys}, target / file)
            index = {"weight_map": {k: file for file, keys in halves.items() for k in keys}}
            (target / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        else:
            torch.save(state, target / "pytorch_model.bin", _use_new_zipfile_serialization=layout == "bin")
    result = examine(good, base=str(target))
    assert result.check("merge-equivalence").status == "passed", result.check("merge-equivalence")


def test_an_index_cannot_reach_out_of_its_directory(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "../../etc/passwd"}}))
    with pytest.raises(ValueError, match="outside its directory"):
        BaseWeights.at(tmp_path)


def test_a_hostile_bin_is_not_unpickled(examine, good, base, tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    target = tmp_path / "hostile"
    shutil.copytree(base, target, ignore=shutil.ignore_patterns("*.safetensors"))
    (target / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Bomb()}))
    result = examine(good, base=str(target))
    assert result.check("merge-equivalence").status == "not-run"
    assert not (tmp_path / "exploded").exists()


def test_weights_saved_from_the_backbone_are_found(examine, tmp_path):
    # `transformer.` is in the model's names and not in the file's, as in the original gpt2 repository.
    from safetensors.torch import load_file, save_file

    model = zoo.gpt2(tmp_path / "gpt2")
    file = tmp_path / "gpt2" / "model.safetensors"
    save_file({k.removeprefix("transformer."): v.clone() for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    path = zoo.adapter(tmp_path / "a", model, zoo.lora(target_modules=["c_attn", "c_proj"]), base=tmp_path / "gpt2")
    assert examine(path).check("merge-equivalence").status == "passed"


def test_a_quantized_base_is_not_compared(examine, good, base, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, tmp_path / "int8")
    file = tmp_path / "int8" / "model.safetensors"
    save_file({k: (v * 100).to(torch.int8) if "proj" in k else v.clone() for k, v in load_file(file).items()}, file)
    result = examine(good, base=str(tmp_path / "int8"))
    assert result.check("merge-equivalence").status == "not-run"
    assert "quantized" in result.check("merge-equivalence").reason


def test_a_base_that_declares_quantization_is_not_compared(examine, good, base, tmp_path):
    shutil.copytree(base, tmp_path / "nf4")
    raw = json.loads((base / "config.json").read_text())
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "nf4" / "config.json").write_text(json.dumps({**raw, "quantization_config": quantization}))
    result = examine(good, base=str(tmp_path / "nf4"))
    assert result.check("loads").status == "passed"
    assert "quantized (bitsandbytes)" in result.check("merge-equivalence").reason
