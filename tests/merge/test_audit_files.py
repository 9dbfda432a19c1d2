"""Merged directories that lack something, hold something else, or too much."""

from __future__ import annotations

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from loradoctor.__main__ import main
from loradoctor.checkpoint.layout import TargetError
from loradoctor.checkpoint.run import CheckOptions, check_many
from tests.merge import planted
from tests.oracle import zoo

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def trio(tmp_path_factory):
    """(base, adapter, state of the right merge)."""
    root = tmp_path_factory.mktemp("files")
    planted.model(root / "base", torch.bfloat16)
    adapter = planted.trained(root / "adapter", root / "base", torch.bfloat16)
    return root / "base", adapter, planted.merged(planted.weights(root / "base"), planted.updates(adapter))


@pytest.fixture
def right(trio, tmp_path):
    base, _, state = trio
    return planted.write(tmp_path / "merged", state, base, sharded=True)


def audited(adapter, merged, **options):
    report = check_many([str(adapter)], CheckOptions(merged=str(merged), merge=False, **options))
    (entry,) = [c for c in report.checks if c.name == "merged-copy"]
    return entry, [d for d in report.diagnostics if d.code != "LD525"]


def only(adapter, merged):
    """The one finding, as (code, cause)."""
    entry, found = audited(adapter, merged)
    assert entry.status == "failed"
    assert [(d.code, d.data["cause"]) for d in found][1:] == []
    return found[0]


def edit_config(directory, **fields):
    raw = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**raw, **fields}))


def rewrite(directory, change):
    file = directory / "model-00002-of-00003.safetensors"
    state = change(load_file(file))
    save_file({k: v.clone() for k, v in state.items()}, file)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    kept = {k: f for k, f in index["weight_map"].items() if f != file.name}
    index["weight_map"] = {**kept, **dict.fromkeys(state, file.name)}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def test_the_right_one_is(in_process, trio, right):
    entry, found = audited(trio[1], right)
    assert (entry.status, found) == ("passed", [])


def test_a_shard_that_is_not_there(in_process, trio, right):
    (right / "model-00002-of-00003.safetensors").unlink()
    found = only(trio[1], right)
    assert (found.code, found.data["cause"], found.data["tensors"]) == ("LD814", "torn", 13)
    assert "model-00002-of-00003.safetensors` is not here" in found.message
    assert found.location.path.endswith("merged/model-00002-of-00003.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, 20_000])
def test_a_shard_that_ends_early(in_process, trio, right, keep):
    file = right / "model-00003-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    found = only(trio[1], right)
    assert (found.code, found.data["cause"]) == ("LD814", "torn")


@pytest.mark.parametrize("pickled", [False, True])
def test_a_single_file_that_ends_early(in_process, trio, tmp_path, pickled):
    base, adapter, state = trio
    merged = planted.write(tmp_path / "m", state, base, pickled=pickled)
    file = next(merged.glob("*.bin" if pickled else "*.safetensors"))
    file.write_bytes(file.read_bytes()[:5000])
    assert (only(adapter, merged).code, only(adapter, merged).data["cause"]) == ("LD814", "torn")


def test_a_pickle_with_code_is_not_run(in_process, trio, tmp_path):
    import pickle

    base, adapter, state = trio

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    merged = planted.write(tmp_path / "m", state, base, pickled=True)
    (merged / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Bomb()}))
    assert only(adapter, merged).code == "LD814"
    assert not (tmp_path / "exploded").exists()


def test_an_index_that_promises_more(in_process, trio, right):
    rewrite(right, lambda state: state)
    file = right / "model-00002-of-00003.safetensors"
    state = load_file(file)
    gone = min(state)
    save_file({k: v.clone() for k, v in state.items() if k != gone}, file)
    found = only(trio[1], right)
    assert (found.code, found.data["cause"], found.data["tensors"]) == ("LD814", "torn", 1)


def test_an_index_that_is_no_json(in_process, trio, right):
    (right / "model.safetensors.index.json").write_text("{")
    assert (only(trio[1], right).code, only(trio[1], right).data["cause"]) == ("LD814", "unreadable")


def test_shards_without_an_index(in_process, trio, right):
    (right / "model.safetensors.index.json").unlink()
    assert (only(trio[1], right).code, only(trio[1], right).data["cause"]) == ("LD814", "no-index")


def test_an_empty_directory(in_process, trio, tmp_path):
    (tmp_path / "nothing").mkdir()
    found = only(trio[1], tmp_path / "nothing")
    assert (found.code, found.data["cause"]) == ("LD814", "empty")
    assert "no weights" in found.message


def test_the_adapter_itself(in_process, trio):
    assert (only(trio[1], trio[1]).code, only(trio[1], trio[1]).data["cause"]) == ("LD814", "adapter")


def test_a_gguf_is_not_compared(in_process, trio, tmp_path):
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "model-q4.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    entry, found = audited(trio[1], tmp_path / "gguf")
    assert (entry.status, found) == ("not-run", [])
    assert "model-q4.gguf" in entry.reason


def test_weights_quantized_after_merging_are_not_compared(in_process, trio, tmp_path):
    base, adapter, state = trio
    quantized = {k: (v.float() * 100).to(torch.int8) if "proj" in k else v for k, v in state.items()}
    merged = planted.write(tmp_path / "int8", quantized, base)
    edit_config(merged, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    entry, found = audited(adapter, merged)
    assert (entry.status, found) == ("not-run", [])
    assert "quantized" in entry.reason


@pytest.mark.parametrize("gone", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_a_tensor_that_is_missing(in_process, trio, tmp_path, gone):
    base, adapter, state = trio
    merged = planted.write(tmp_path / "m", {k: v for k, v in state.items() if k != gone}, base)
    found = only(adapter, merged)
    assert (found.code, found.data["cause"], found.data["examples"]) == ("LD814", "missing", [gone])


def test_tensors_of_another_shape(in_process, trio, tmp_path):
    base, adapter, state = trio
    odd = {"model.norm.weight": torch.ones(32), "model.layers.0.self_attn.q_proj.weight": torch.ones(64, 32)}
    found = only(adapter, planted.write(tmp_path / "m", {**state, **odd}, base))
    assert (found.code, found.data["cause"], found.data["count"]) == ("LD814", "shape", 2)


def test_no_config(in_process, trio, right):
    (right / "config.json").unlink()
    assert (only(trio[1], right).code, only(trio[1], right).data["cause"]) == ("LD814", "no-config")


def test_a_quantization_config_that_is_left_over(in_process, trio, right):
    edit_config(right, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    found = only(trio[1], right)
    assert (found.code, found.data["cause"]) == ("LD813", "quantization-config")
    assert found.location.path.endswith("merged/config.json")


def test_an_adapter_config_that_is_left_over(in_process, trio, right):
    shutil.copy(trio[1] / "adapter_config.json", right)
    found = only(trio[1], right)
    assert (found.code, found.data["cause"]) == ("LD813", "adapter-config")


def test_lora_tensors_that_are_left_over(in_process, trio, tmp_path):
    base, adapter, state = trio
    extra = {"model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.ones(8, 64)}
    found = only(adapter, planted.write(tmp_path / "m", {**state, **extra}, base))
    assert (found.code, found.data["cause"], found.data["count"]) == ("LD813", "adapter-tensors", 1)


@pytest.mark.parametrize("prefix", ["base_model.model.", "_orig_mod.", "module."])
def test_names_of_a_wrapper(in_process, trio, tmp_path, prefix):
    base, adapter, state = trio
    found = only(adapter, planted.write(tmp_path / "m", {prefix + k: v for k, v in state.items()}, base))
    assert (found.code, found.data["cause"], found.data["count"]) == ("LD813", "wrapper-tensors", len(state))


def test_a_wrapped_model_saved_before_merging(in_process, trio, tmp_path):
    """`base_layer` in the names, the adapter beside them, and nothing merged: two causes."""
    import peft
    import transformers

    base, adapter, _ = trio
    model = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter)
    state = model.base_model.model.state_dict()
    _, found = audited(adapter, planted.write(tmp_path / "m", state, base))
    assert {(d.code, d.data["cause"]) for d in found} == {("LD813", "adapter-tensors"), ("LD813", "wrapper-tensors"), ("LD810", "not-merged")}


def test_names_that_mean_nothing(in_process, trio, tmp_path):
    base, adapter, state = trio
    found = only(adapter, planted.write(tmp_path / "m", {**state, "head.extra.weight": torch.ones(3)}, base))
    assert (found.code, found.data["cause"]) == ("LD813", "unknown-tensors")


def test_old_buffers_are_none_of_the_merge(in_process, trio, tmp_path):
    base, adapter, state = trio
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    entry, found = audited(adapter, planted.write(tmp_path / "m", {**state, **old}, base))
    assert (entry.status, found) == ("passed", [])


def test_saved_modules_that_were_not_merged(in_process, tmp_path):
    base = tmp_path / "base"
    model = zoo.llama(base)
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(modules_to_save=["lm_head"]), base=base)
    tensors = {k: v for k, v in load_file(adapter / "adapter_model.safetensors").items() if "lora" in k}
    lora = tmp_path / "lora-only"
    lora.mkdir()
    save_file(tensors, lora / "adapter_model.safetensors")
    shutil.copy(adapter / "adapter_config.json", lora)
    merged = planted.write(tmp_path / "m", planted.merged(planted.weights(base), planted.updates(lora)), base)
    found = only(adapter, merged)
    assert (found.code, found.data["cause"], found.data["examples"]) == ("LD810", "partly-merged", ["lm_head.weight"])


def test_a_broken_adapter_proves_nothing_but_files_are_judged(in_process, trio, right, tmp_path):
    nested = zoo.edited(trio[1], tmp_path / "nested", keys=lambda key: f"base_model.model.{key}")
    entry, found = audited(nested, right)
    assert (entry.status, [d.code for d in found]) == ("vacuous", ["LD601"])
    (right / "model-00002-of-00003.safetensors").unlink()
    entry, found = audited(nested, right)
    assert (entry.status, {d.code for d in found}) == ("failed", {"LD601", "LD814"})


def test_placed_at_the_merged_tensor(in_process, trio, right):
    rewrite(right, lambda state: {k: v + 1 if k == "model.layers.1.self_attn.k_proj.weight" else v for k, v in state.items()})
    index = json.loads((right / "model.safetensors.index.json").read_text())["weight_map"]
    name = next(n for n in index if index[n].startswith("model-00002") and "k_proj" in n)
    rewrite(right, lambda state: {k: v + 1 if k == name else v for k, v in state.items()})
    found = only(trio[1], right)
    assert (found.code, found.location.key) == ("LD812", name)
    assert found.location.path == f"{right}/model-00002-of-00003.safetensors"


@pytest.mark.parametrize(("options", "said"), [
    ({"base": "none"}, "--no-base"),
    ({"merged": "/nowhere/at/all"}, "does not exist"),
    ({"merged": __file__}, "is not a directory"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(in_process, trio, right, options, said):
    with pytest.raises(TargetError, match=said):
        check_many([str(trio[1])], CheckOptions(**{"merged": str(right), **options}))


def test_a_base_that_cannot_be_had_is_refused(in_process, trio, right, tmp_path):
    lost = zoo.edited(trio[1], tmp_path / "lost", config={"base_model_name_or_path": "org/nowhere"})
    with pytest.raises(TargetError, match="`--merged` needs the base"):
        check_many([str(lost)], CheckOptions(merged=str(right)))


def test_a_base_without_weights_is_refused(in_process, trio, right, tmp_path):
    shutil.copytree(trio[0], tmp_path / "config-only", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(TargetError, match="`--merged` needs the weights of the base"):
        check_many([str(trio[1])], CheckOptions(base=str(tmp_path / "config-only"), merged=str(right), merge=False))


def test_a_randomised_initialisation_has_no_right_merge(in_process, trio, tmp_path):
    base = tmp_path / "base"
    adapter = zoo.adapter(tmp_path / "a", zoo.llama(base), zoo.lora(init_lora_weights="pissa_niter_4"), base=base)
    entry, found = audited(adapter, base)
    assert (entry.status, [d.code for d in found if d.code != "LD807"]) == ("not-run", [])
    assert "randomised" in entry.reason


def test_several_adapters_are_refused(in_process, trio, right, tmp_path):
    shutil.copytree(trio[1], tmp_path / "again")
    with pytest.raises(TargetError, match="one adapter, and 2"):
        check_many([str(trio[1]), str(tmp_path / "again")], CheckOptions(merged=str(right)))


@pytest.mark.parametrize("argv", [["-r"], ["--no-base"]])
def test_the_command_line_refuses_with_2(trio, right, capsys, argv):
    assert main(["check", str(trio[1]), "--merged", str(right), *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--merged" in err
    assert len(err.strip().splitlines()) == 1


def test_the_assertion(trio, right):
    from loradoctor.testing import assert_merged

    base, adapter, _ = trio
    assert assert_merged(adapter, base, right).status == "passed"
    rewrite(right, lambda state: {k: v * 2 if "k_proj" in k else v for k, v in state.items()})
    with pytest.raises(AssertionError, match=r"(?s)the merged model is not proven, the check is `failed`.*LD812"):
        assert_merged(adapter, base, right)


def test_the_report_says_what_was_seen(trio, right, capsys):
    base, adapter, _ = trio
    assert main(["check", str(adapter), "--base", str(base), "--merged", str(right), "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    checks = {c["name"]: c for c in report["checks"]}
    assert checks["merge-equivalence"]["status"] == "passed"
    assert checks["merged-copy"]["status"] == "passed"
    assert checks["merged-copy"]["measured"] < checks["merged-copy"]["bound"]
    rewrite(right, lambda state: {k: v * 2 if "k_proj" in k else v for k, v in state.items()})
    assert main(["check", str(adapter), "--merged", str(right), "--no-merge"]) == 1
    assert "error[LD812]" in capsys.readouterr().out


def changed(state, part, how):
    return {k: how(v) if part in k else v for k, v in state.items()}


def sparse(tensor):
    return tensor.to_sparse()


ODD = {
    "no numbers": ("up_proj", lambda v: torch.full_like(v, float("nan")), "LD815", "overflow"),
    "infinities": ("up_proj", lambda v: torch.full_like(v, float("inf")), "LD815", "overflow"),
    "infinities elsewhere": ("k_proj", lambda v: v * float("inf"), "LD812", "weights-changed"),
    "a scalar": ("model.norm", lambda _: torch.tensor(1.0), "LD814", "shape"),
    "nothing": ("0.self_attn.q_proj", lambda v: v[:0], "LD814", "shape"),
    "integers": ("k_proj", lambda v: (v.float() * 1e6).long(), "LD812", "weights-changed"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_values(in_process, trio, tmp_path, kind):
    base, adapter, state = trio
    part, how, code, cause = ODD[kind]
    merged = planted.write(tmp_path / "m", changed(state, part, how), base)
    found = only(adapter, merged)
    assert (found.code, found.data["cause"]) == (code, cause)
    assert json.loads(json.dumps(dict(found.data), allow_nan=False))


def test_tensors_that_are_no_plain_ones(in_process, trio, tmp_path):
    base, adapter, state = trio
    merged = planted.write(tmp_path / "m", state, base, pickled=True)
    torch.save(changed(state, "model.norm", sparse), merged / "pytorch_model.bin")
    assert (only(adapter, merged).code, only(adapter, merged).data["cause"]) == ("LD814", "unreadable")


def test_hostile_names_are_escaped(trio, tmp_path, capsys):
    base, adapter, state = trio
    merged = planted.write(tmp_path / "m", {**state, "a\x1b[31m.weight": torch.ones(2)}, base)
    assert main(["check", str(adapter), "--merged", str(merged), "--no-merge"]) == 1
    assert "\x1b" not in capsys.readouterr().out
