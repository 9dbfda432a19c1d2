"""`loradoctor merge`: what it refuses, replaces, carries along, combines, and leaves behind when it is stopped."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from loradoctor.checkpoint.layout import TargetError
from loradoctor.merge import run as command
from loradoctor.merge.outcome import MERGED, REFUSED, STOPPED, as_json, as_text
from loradoctor.merge.run import MergeOptions
from loradoctor.oracle.streaming import request as merging
from tests.oracle import zoo

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Answer requests here: a child process costs seconds of imports each time."""

    def ask(request, **_):
        from loradoctor.oracle.session import serve

        return serve(request, lambda *_, **__: None)

    monkeypatch.setattr(command, "ask", ask)


@pytest.fixture
def pair(tmp_path):
    """A base in bf16 and a sound adapter for it."""
    model = zoo.llama(tmp_path / "base", dtype=torch.bfloat16)
    return tmp_path / "base", zoo.adapter(tmp_path / "adapter", model, zoo.lora(), base=tmp_path / "base")


def merge(adapters, output, **options):
    adapters = adapters if isinstance(adapters, list) else [adapters]
    return command.merge([str(a) for a in adapters], MergeOptions(output=str(output), **options))


def reference(base, adapter, output):
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(output)
    return output


def equal(one, other):
    return all(filecmp.cmp(file, one / file.name, shallow=False) for file in other.iterdir())


def test_the_output_stands_alone(pair, tmp_path):
    base, adapter = pair
    outcome = merge(adapter, tmp_path / "out")
    assert outcome.status == MERGED
    assert equal(tmp_path / "out", reference(base, adapter, tmp_path / "theirs"))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("out")) == ["out"]
    assert "audit passed" in as_text(outcome)
    assert as_json(outcome)["merge"]["status"] == "merged"


def test_the_tokenizer_of_the_adapter_wins_and_the_rest_is_the_bases(pair, tmp_path):
    base, adapter = pair
    for directory, names in ((base, ("tokenizer.json", "merges.txt", "chat_template.jinja", "LICENSE", "model.py", "pytorch_model.bin.old")),
                             (adapter, ("tokenizer.json", "tokenizer_config.json", "optimizer.pt"))):  # fmt: skip
        for name in names:
            (directory / name).write_text(directory.name)
    merge(adapter, tmp_path / "out")
    found = {p.name: p.read_text() for p in (tmp_path / "out").iterdir() if p.suffix != ".safetensors"}
    assert found["tokenizer.json"] == found["tokenizer_config.json"] == "adapter"
    assert found["LICENSE"] == "base"
    assert not {"merges.txt", "chat_template.jinja", "model.py", "optimizer.pt", "adapter_config.json"} & set(found)


def test_a_template_of_the_adapter_goes_with_the_tokenizer_of_the_base(pair, tmp_path):
    base, adapter = pair
    (base / "tokenizer.json").write_text("base")
    (base / "chat_template.jinja").write_text("base")
    (adapter / "chat_template.jinja").write_text("adapter")
    merge(adapter, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "base"
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "adapter"


def test_what_is_there_is_replaced_by_force_only(pair, tmp_path):
    _, adapter = pair
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(TargetError, match="--force"):
        merge(adapter, tmp_path / "out")
    assert merge(adapter, tmp_path / "out", force=True).status == MERGED
    assert not (tmp_path / "out" / "mine").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("out")] == ["out"]


def test_a_replacement_that_was_cut_off_gives_the_old_one_back(pair, tmp_path):
    _, adapter = pair
    old = tmp_path / "out.replaced-0123456789ab"
    old.mkdir()
    (old / "mine").write_text("kept")
    with pytest.raises(TargetError, match="--force"):
        merge(adapter, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "kept"


@pytest.mark.parametrize("place", ["adapter", "adapter/below", "base", "base/below", "."])
def test_an_output_within_its_sources_is_refused(pair, tmp_path, place):
    _, adapter = pair
    with pytest.raises(TargetError):
        merge(adapter, tmp_path / place, force=True)
    assert (tmp_path / "base" / "config.json").is_file()
    assert (adapter / "adapter_config.json").is_file()


def refused(adapter, tmp_path, **options):
    outcome = merge(adapter, tmp_path / "out", **options)
    assert outcome.status == REFUSED, as_text(outcome)
    assert not list(tmp_path.glob("out*"))
    return outcome


def codes(outcome):
    return {d.code for d in outcome.report.diagnostics}


def test_a_target_that_others_are_tied_to_is_refused(tmp_path):
    model = zoo.llama(tmp_path / "base", dtype=torch.bfloat16, tie_word_embeddings=True)
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(target_modules=["q_proj", "embed_tokens"]), base=tmp_path / "base")
    assert "LD806" in codes(refused(adapter, tmp_path))


def test_replicated_layers_are_refused(tmp_path):
    model = zoo.llama(tmp_path / "base", dtype=torch.float32)
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(layer_replication=[(0, 2), (1, 2)]), base=tmp_path / "base")
    assert "LD805" in codes(refused(adapter, tmp_path))


def test_what_peft_stops_at_is_refused(tmp_path):
    model = zoo.llama(tmp_path / "base")
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(lora_bias=True), base=tmp_path / "base")
    assert "LD804" in codes(refused(adapter, tmp_path))


def test_what_is_random_at_every_load_is_refused(tmp_path):
    model = zoo.llama(tmp_path / "base")
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(init_lora_weights="pissa_niter_2"), base=tmp_path / "base")
    assert "LD801" in codes(refused(adapter, tmp_path))


def test_weights_that_would_not_fit_are_refused(tmp_path):
    model = zoo.llama(tmp_path / "base", dtype=torch.float16)
    adapter = zoo.adapter(tmp_path / "a", model, zoo.lora(), base=tmp_path / "base", std=600.0)
    outcome = refused(adapter, tmp_path)
    assert "LD803" in codes(outcome) or "LD803" in outcome.reason


def test_prompts_have_nothing_to_merge(tmp_path):
    model = zoo.llama(tmp_path / "base")
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    assert "nothing to merge" in refused(zoo.adapter(tmp_path / "a", model, config, base=tmp_path / "base"), tmp_path).reason


def test_a_quantized_base_is_refused(pair, tmp_path):
    base, adapter = pair
    raw = json.loads((base / "config.json").read_text())
    raw["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (base / "config.json").write_text(json.dumps(raw))
    assert "quantized (gptq)" in refused(adapter, tmp_path).reason


def test_a_base_that_nobody_knows_is_refused(pair, tmp_path):
    base, adapter = pair
    raw = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**raw, "model_type": "nonesuch"}))
    assert "cannot be built" in refused(adapter, tmp_path).reason


@pytest.mark.parametrize("damage", ["cut", "missing", "lfs"])
def test_weights_of_the_base_that_cannot_be_read_are_refused(pair, tmp_path, damage):
    base, adapter = pair
    file = base / "model.safetensors"
    data = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(data[: len(data) // 2] if damage == "cut" else b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refused(adapter, tmp_path)


def test_a_pipeline_is_refused(pair, tmp_path):
    _, adapter = pair
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    refused(adapter, tmp_path, base=str(tmp_path / "pipeline"))


def test_a_broken_adapter_is_refused_with_its_findings(pair, tmp_path):
    _, adapter = pair
    broken = zoo.edited(adapter, tmp_path / "broken", keys=lambda key: None if "layers.0.self_attn.q_proj.lora_B" in key else key)
    assert codes(refused(broken, tmp_path)) & {"LD606", "LD607"}


def test_an_adapter_for_another_base_is_refused(pair, tmp_path):
    _, adapter = pair
    zoo.llama(tmp_path / "other", hidden_size=64)
    refused(adapter, tmp_path, base=str(tmp_path / "other"))


def test_too_little_space_is_noticed_before_the_first_byte(pair, tmp_path, monkeypatch):
    _, adapter = pair
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(merging.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert "less free space" in refused(adapter, tmp_path).reason


def test_a_full_disk_is_one_line_and_the_rest_is_kept(pair, tmp_path, monkeypatch):
    base, adapter = pair
    from loradoctor.oracle.streaming import shards

    write, left = shards._write, [8]

    def full(*args):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        write(*args)

    monkeypatch.setattr(shards, "_write", full)
    outcome = merge(adapter, tmp_path / "out")
    assert outcome.status == STOPPED
    assert outcome.reason == "there is no space left on the disk"
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(shards, "_write", write)
    again = merge(adapter, tmp_path / "out")
    assert again.status == MERGED
    assert again.facts["kept"] > 0
    assert equal(tmp_path / "out", reference(base, adapter, tmp_path / "theirs"))


def stopped_half_way(adapter, tmp_path, monkeypatch):
    from loradoctor.oracle.streaming import shards

    write, left = shards._write, [8]

    def broken(*args):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(5, "Input/output error")
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_write", broken)
        assert merge(adapter, tmp_path / "out").status == STOPPED
    return next(p for p in tmp_path.iterdir() if p.name.startswith("out.partial-") and p.is_dir())


def test_what_was_damaged_meanwhile_is_written_again(pair, tmp_path, monkeypatch):
    base, adapter = pair
    partial = stopped_half_way(adapter, tmp_path, monkeypatch)
    part = partial / "model.safetensors.part"
    data = bytearray(part.read_bytes())
    data[len(data) // 4] ^= 1
    part.write_bytes(data)
    assert merge(adapter, tmp_path / "out").status == MERGED
    assert equal(tmp_path / "out", reference(base, adapter, tmp_path / "theirs"))


def test_another_plan_begins_anew_and_clears_away_the_old_one(pair, tmp_path, monkeypatch):
    _, adapter = pair
    stopped_half_way(adapter, tmp_path, monkeypatch)
    outcome = merge(adapter, tmp_path / "out", dtype="float32")
    assert outcome.status == MERGED
    assert outcome.facts["kept"] == 0
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("out")] == ["out"]


def test_a_journal_without_its_files_is_not_believed(pair, tmp_path, monkeypatch):
    base, adapter = pair
    shutil.rmtree(stopped_half_way(adapter, tmp_path, monkeypatch))
    assert merge(adapter, tmp_path / "out").facts["kept"] == 0
    assert equal(tmp_path / "out", reference(base, adapter, tmp_path / "theirs"))


def test_what_the_audit_does_not_pass_is_not_moved_into_place(pair, tmp_path, monkeypatch):
    _, adapter = pair
    audit = merging._audited

    def spoilt(request, merging_, directory, progress):
        tensors = load_file(directory / "model.safetensors")
        tensors["model.norm.weight"] += 1
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return audit(request, merging_, directory, progress)

    monkeypatch.setattr(merging, "_audited", spoilt)
    outcome = merge(adapter, tmp_path / "out")
    assert outcome.status == STOPPED
    assert "audit" in outcome.reason
    assert "LD812" in codes(outcome)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("combination", "options"),
    [
        ("cat", {}),
        ("linear", {}),
        ("svd", {"svd_rank": 3}),
        ("ties", {"density": 0.5}),
        ("dare_linear", {"density": 0.5}),
        ("magnitude_prune_svd", {"density": 0.5}),
    ],
)
def test_combinations_are_pefts(pair, tmp_path, combination, options):
    base, first = pair
    model = zoo.llama(tmp_path / "scratch", dtype=torch.bfloat16)
    torch.manual_seed(7)
    second = zoo.adapter(tmp_path / "second", model, zoo.lora(), base=base, std=0.02)
    weights = [0.7, -0.3 if peft.__version__ >= "0.18" else 0.3]
    outcome = merge([first, second], tmp_path / "out", weights=weights, combination=combination, **options)
    assert outcome.status == MERGED, as_text(outcome)
    # In float32, where the combination itself is not rounded, and from there onto the base.
    single = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(single, str(first), adapter_name="a")
    model.load_adapter(str(second), adapter_name="b")
    torch.manual_seed(0)
    model.add_weighted_adapter(["a", "b"], weights, "c", combination, **options)
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    model.save_pretrained(tmp_path / "combined", selected_adapters=["c"])
    assert equal(tmp_path / "out", reference(base, tmp_path / "combined" / "c", tmp_path / "theirs"))


def test_a_weight_of_one_adapter_scales_it(pair, tmp_path):
    base, adapter = pair
    with pytest.raises(TargetError, match="merges nothing"):
        merge(adapter, tmp_path / "out", weights=[0.0])
    assert merge(adapter, tmp_path / "out", weights=[0.5]).status == MERGED
    before, half = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    whole = load_file(reference(base, adapter, tmp_path / "theirs") / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    update = (half[name].float() - before[name].float()).norm() / (whole[name].float() - before[name].float()).norm()
    assert abs(float(update) - 0.5) < 0.01


def test_what_peft_does_not_combine_is_refused(pair, tmp_path):
    base, first = pair
    model = zoo.llama(tmp_path / "scratch", dtype=torch.bfloat16)
    other = zoo.adapter(tmp_path / "dora", model, zoo.lora(use_dora=True), base=base)
    assert "`use_dora`" in refused([first, other], tmp_path).reason


def test_adapters_of_different_bases_need_one_that_is_named(pair, tmp_path):
    _, first = pair
    model = zoo.llama(tmp_path / "other", dtype=torch.bfloat16)
    second = zoo.adapter(tmp_path / "second", model, zoo.lora(), base=tmp_path / "other")
    with pytest.raises(TargetError, match="--base"):
        merge([first, second], tmp_path / "out")


def started(adapter, output):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "loradoctor", "merge", str(adapter), "--output", str(output)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def larger(tmp_path):
    """A pair whose merge takes long enough to be killed in the middle of it."""
    model = zoo.llama(tmp_path / "base", dtype=torch.bfloat16, hidden_size=512, intermediate_size=2048, num_hidden_layers=24, vocab_size=4096)
    return tmp_path / "base", zoo.adapter(tmp_path / "adapter", model, zoo.lora(), base=tmp_path / "base", std=0.01)


def partly(tmp_path):
    return [p for p in tmp_path.iterdir() if p.name.startswith("out.partial-") and p.is_dir()]


def test_killed_three_times_and_completed(larger, tmp_path):
    base, adapter = larger
    for pause in (0.0, 0.1, 0.3):
        process = started(adapter, tmp_path / "out")
        deadline = time.monotonic() + 120
        while not partly(tmp_path) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "out").exists() or equal(tmp_path / "out", reference(base, adapter, tmp_path / "theirs"))
        if (tmp_path / "out").exists():
            shutil.rmtree(tmp_path / "out")
    assert merge(adapter, tmp_path / "out").status == MERGED
    assert equal(tmp_path / "out", reference(base, adapter, tmp_path / "theirs"))
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("out")] == ["out"]


def test_ctrl_c_says_what_is_left(larger, tmp_path):
    _, adapter = larger
    process = started(adapter, tmp_path / "out")
    while not partly(tmp_path) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in said
    assert not (tmp_path / "out").exists()
    assert Path(said.split("`")[1]).is_dir()
