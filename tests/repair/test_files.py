"""What happens on disk: what is carried along, what stays behind, and that nothing is ever replaced or half written."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from loradoctor.checkpoint.layout import TargetError
from loradoctor.repair import run as running
from loradoctor.repair.run import RepairOptions, repair

from .test_catalogue import FILE


@pytest.fixture
def broken(case):
    """An adapter with a doubled prefix."""
    return case("104")


def into(directory, output, **more):
    (outcome,) = repair(str(directory), RepairOptions(output=str(output), base="none", **more))
    return outcome


def contents(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_everything_else_comes_along_except_states_and_pickles(broken, tmp_path):
    (broken / "tokenizer.json").write_text("{}")
    (broken / "assets").mkdir()
    (broken / "assets" / "plot.svg").write_text("<svg/>")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "odd.pkl"):
        (broken / name).write_bytes(b"\x80\x02.")
    (broken / "global_step20").mkdir()
    (broken / "checkpoint-10").mkdir()
    (broken / "trainer_state.json").write_text("{}")
    outcome = into(broken, tmp_path / "new")
    found = contents(tmp_path / "new")
    assert set(found) == {
        "README.md", "adapter_config.json", FILE, "assets/plot.svg", "repair-report.json", "tokenizer.json", "trainer_state.json",
    }  # fmt: skip
    left = {d.name: d.why for d in outcome.left}
    assert set(left) == {
        "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "odd.pkl", "global_step20", "checkpoint-10",
    }  # fmt: skip
    assert "state of the training" in left["optimizer.pt"]
    assert "pickle" in left["odd.pkl"]


def test_other_weights_stay_where_they_are(broken, tmp_path):
    save_file({"w": torch.ones(2)}, broken / "model.safetensors")
    assert [d.name for d in into(broken, tmp_path / "new").left] == ["model.safetensors"]


def test_of_a_file_among_others_only_the_file_is_taken(broken, tmp_path):
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    tensors = load_file(broken / FILE)
    save_file({k.removeprefix("base_model.model.base_model.model."): t for k, t in tensors.items()}, downloads / "lora.safetensors")
    (downloads / "adapter_config.json").write_bytes((broken / "adapter_config.json").read_bytes())
    (downloads / "letter.txt").write_text("private")
    assert into(downloads / "lora.safetensors", tmp_path / "new").status == "repaired"
    assert sorted(contents(tmp_path / "new")) == ["adapter_config.json", FILE, "repair-report.json"]


def test_links_are_followed_only_into_the_adapter_and_the_hubs_blobs(broken, tmp_path):
    (tmp_path / "secret").write_text("mine")
    (broken / "secret.txt").symlink_to(tmp_path / "secret")
    (broken / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
    (broken / "alias.md").symlink_to("README.md")
    os.mkfifo(broken / "pipe")
    outcome = into(broken, tmp_path / "new")
    assert {d.name for d in outcome.left} == {"secret.txt", "elsewhere", "pipe"}
    assert (tmp_path / "new" / "alias.md").read_bytes() == (broken / "README.md").read_bytes()
    assert not (tmp_path / "new" / "alias.md").is_symlink()


def test_a_snapshot_of_the_hub_is_read_through_its_links(broken, tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in sorted(broken.iterdir()):
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(blobs / path.name)
    outcome = into(snapshot, tmp_path / "new")
    assert (outcome.status, outcome.left) == ("repaired", ())
    assert (tmp_path / "new" / "README.md").is_file()


def test_the_original_stays_as_it_was(broken, tmp_path):
    before = contents(broken)
    into(broken, tmp_path / "new")
    assert contents(broken) == before


def test_an_output_with_something_in_it_is_refused(broken, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").write_text("mine")
    with pytest.raises(TargetError, match="exists already"):
        into(broken, tmp_path / "new")
    assert contents(tmp_path / "new") == {"mine.txt": b"mine"}


def test_never_in_place(broken):
    with pytest.raises(TargetError, match="exists already"):
        into(broken, broken)
    with pytest.raises(TargetError, match="in the directory that is repaired"):
        into(broken, broken / "new")


def test_an_empty_output_is_filled_and_has_ordinary_permissions(broken, tmp_path):
    (tmp_path / "new").mkdir()
    assert into(broken, tmp_path / "new").status == "repaired"
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o777 & ~umask


def test_missing_directories_above_the_output_are_made(broken, tmp_path):
    assert into(broken, tmp_path / "a" / "b" / "new").status == "repaired"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize("parent", ["file", "/proc/self"])
def test_an_output_that_cannot_be_made_is_an_error(parent, broken, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError, match="cannot be written"):
        into(broken, tmp_path / parent / "new")


def test_an_output_that_appears_meanwhile_is_not_replaced(broken, tmp_path, monkeypatch):
    def slow(*arguments):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "mine.txt").write_text("mine")
        return carry(*arguments)

    carry = running.carry
    monkeypatch.setattr(running, "carry", slow)
    assert into(broken, tmp_path / "new").status == "refused"
    assert contents(tmp_path / "new") == {"mine.txt": b"mine"}


def test_a_dry_run_writes_nothing(broken, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    (outcome,) = repair(str(broken), RepairOptions(dry_run=True, base="none"))
    assert outcome.status == "planned"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_result_that_is_not_what_was_planned_never_appears(broken, tmp_path, monkeypatch):
    def careless(plan, to):
        running_write(plan, to)
        path = to / FILE
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)

    running_write = running.write
    monkeypatch.setattr(running, "write", careless)
    outcome = into(broken, tmp_path / "new")
    assert outcome.status == "not-proved"
    assert outcome.failed
    assert [p.name for p in outcome.proofs if p.status == "failed"] == ["bytes"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != broken.name) == []


def test_a_full_disk_leaves_nothing_behind(broken, tmp_path, monkeypatch):
    def full(plan, to):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(running, "write", full)
    outcome = into(broken, tmp_path / "new")
    assert "No space left" in outcome.plan.refusals[0].what
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != broken.name) == []


def test_the_report_beside_the_result_tells_every_change(broken, tmp_path):
    config = json.loads((broken / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    into(broken, tmp_path / "new")
    report = json.loads((tmp_path / "new" / "repair-report.json").read_text())
    assert report["status"] == "repaired"
    assert {c["field"]: (c["old"], c["new"]) for c in report["changes"]["config"]} == {"r": (8, 4)}
    assert len(report["changes"]["tensors"]) == 12
    assert {p["name"]: p["status"] for p in report["proof"]} == {
        "bytes": "passed", "updates": "passed", "scaling": "passed", "check": "passed", "peft": "not-run",
    }  # fmt: skip
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    (change,) = [c for c in report["changes"]["tensors"] if c["name"] == name]
    assert change["from"] == [f"base_model.model.{name}"]


def test_a_report_of_an_earlier_repair_is_replaced(broken, tmp_path):
    (broken / "repair-report.json").write_text("{}")
    into(broken, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "repair-report.json").read_text())["status"] == "repaired"


def test_a_named_file_is_the_one_that_is_meant(case, tmp_path):
    both = case("814")
    outcome = into(both / "adapter_model.bin", tmp_path / "new")
    assert outcome.status == "repaired"
    wanted = torch.load(both / "adapter_model.bin", weights_only=True)
    found = load_file(tmp_path / "new" / FILE)
    assert all(torch.equal(found[k], t) for k, t in wanted.items())
    assert not (tmp_path / "new" / "adapter_model.bin").exists()


def test_two_files_that_agree_are_one(good, tmp_path):
    directory = good()
    torch.save(load_file(directory / FILE), directory / "adapter_model.bin")
    outcome = into(directory, tmp_path / "new")
    assert outcome.plan.files == ("`adapter_model.bin` is left out: PEFT reads `adapter_model.safetensors`, which holds the same",)
    assert sorted(contents(tmp_path / "new")) == ["README.md", "adapter_config.json", FILE, "repair-report.json"]


def test_views_and_shared_storages_of_a_bin_are_written_out(good, tmp_path):
    directory = good()
    tensors = load_file(directory / FILE)
    torch.save({k: t.T.contiguous().T for k, t in tensors.items()}, directory / "adapter_model.bin")
    (directory / FILE).unlink()
    outcome = into(directory, tmp_path / "new")
    assert outcome.status == "repaired"
    assert all(torch.equal(t, tensors[k]) for k, t in load_file(tmp_path / "new" / FILE).items())


def test_missing_shards_and_shards_that_overlap_are_refused(case, tmp_path):
    shards = case("818")
    second = shards / "adapter_model-00002-of-00002.safetensors"
    first = load_file(shards / "adapter_model-00001-of-00002.safetensors")
    kept = second.read_bytes()
    save_file(first, second)
    assert "more than one shard" in into(shards, tmp_path / "new").plan.refusals[0].what
    second.write_bytes(kept)
    index = shards / "adapter_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"base_model.model.lost": second.name}}))
    assert "no shard holds" in into(shards, tmp_path / "new").plan.refusals[0].what
    second.unlink()
    assert "the missing shards" in into(shards, tmp_path / "new").plan.refusals[0].evidence


def test_names_of_a_hostile_file_are_harmless(good, tmp_path):
    from loradoctor.repair.outcome import as_text

    directory = good()
    tensors = load_file(directory / FILE)
    save_file({f"module.{k}": t for k, t in tensors.items()} | {"../../evil\x1b[2J": torch.ones(2)}, directory / FILE)
    outcome = into(directory, tmp_path / "new")
    assert "\x1b" not in as_text(outcome)
    assert sorted(p.name for p in tmp_path.iterdir()) == [directory.name, *(["new"] if outcome.status == "repaired" else [])]


def test_several_adapters_below_are_repaired_one_at_a_time(good, tmp_path):
    good("run/a")
    good("run/b")
    with pytest.raises(TargetError, match="2 adapters below"):
        into(tmp_path / "run", tmp_path / "new")
