"""From what the user types to the adapters that are meant."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from loradoctor.checkpoint.layout import TargetError, places

GOOD = Path(__file__).parents[2] / "fixtures" / "adapters" / "good_lora"


def adapter(directory: Path) -> Path:
    shutil.copytree(GOOD, directory, ignore=shutil.ignore_patterns("expected.json"))
    return directory


def found(*targets: str | Path) -> list[str]:
    return [p.path for p in places(str(t) for t in targets)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_directory_is_itself(tmp_path: Path) -> None:
    adapter(tmp_path / "a")
    assert found("a") == ["a"]
    assert found("./a/") == ["./a/"]


def test_config_and_weights_are_one_adapter(tmp_path: Path) -> None:
    adapter(tmp_path / "a")
    assert found("a/adapter_config.json", "a/adapter_model.safetensors") == ["a"]


def test_a_file_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(adapter(tmp_path / "a"))
    assert found("adapter_model.safetensors") == ["."]


def test_named_adapters_below_a_directory(tmp_path: Path) -> None:
    adapter(tmp_path / "run" / "poet")
    adapter(tmp_path / "run" / "chef")
    assert found("run") == ["run/chef", "run/poet"]


def test_named_adapters_beside_the_default_one(tmp_path: Path) -> None:
    adapter(tmp_path / "run")
    adapter(tmp_path / "run" / "poet")
    assert found("run") == ["run", "run/poet"]


def test_other_checkpoints_of_a_finished_run_are_not_meant(tmp_path: Path) -> None:
    adapter(tmp_path / "run")
    adapter(tmp_path / "run" / "checkpoint-500")
    assert found("run") == ["run"]


def test_an_output_directory_means_its_checkpoints(tmp_path: Path) -> None:
    adapter(tmp_path / "run" / "checkpoint-10")
    adapter(tmp_path / "run" / "checkpoint-20")
    assert found("run") == ["run/checkpoint-10", "run/checkpoint-20"]


def test_a_link_to_itself_ends(tmp_path: Path) -> None:
    adapter(tmp_path / "run" / "poet")
    (tmp_path / "run" / "loop").symlink_to(tmp_path / "run")
    assert found("run")[-1] == "run/poet" or len(found("run")) == 1


def test_a_repository_from_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "hub" / "models--alice--poet"
    snapshot = adapter(root / "snapshots" / "abc123")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc123")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert found("alice/poet") == [str(snapshot)]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere", "does not exist"),
        ("alice/unknown", "neither a path nor in the local"),
        ("empty", "no adapter in"),
        ("full", "is a full model"),
        ("notes.txt", "is not an adapter"),
        ("pipe", "neither a directory nor a regular file"),
    ],
)
def test_what_cannot_be_checked_is_said_in_one_line(tmp_path: Path, target: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TargetError, match=said) as caught:
        places([target])
    assert "\n" not in str(caught.value)
