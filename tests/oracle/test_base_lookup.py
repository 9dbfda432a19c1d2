"""Where a base is looked for: directories, the local cache of the hub by id, branch, tag and commit, and what is said in between."""

from __future__ import annotations

import json
import shutil

import pytest

from loradoctor.checkpoint.base_lookup import find
from loradoctor.checkpoint.checkpoint import read
from loradoctor.checkpoint.hub_cache import cached_snapshot, hub_cache
from loradoctor.checkpoint.layout import TargetError, places
from loradoctor.checkpoint.run import CheckOptions

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    for name in ("HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def put(cache, name, commit=COMMIT, *files, **refs):
    """A snapshot with ``files`` (a config by default) and branches or tags on it."""
    root = cache / f"models--{name.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    for file in files or ("config.json",):
        (snapshot / file).write_text("{}")
    for ref, target in refs.items():
        path = root / "refs" / ref.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(target)
    return snapshot


def adapter(directory, base, **fields):
    directory.mkdir(parents=True)
    raw = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": base, **fields}
    (directory / "adapter_config.json").write_text(json.dumps(raw))
    return read(str(directory), directory, None)


def found(checkpoint, **options):
    return find(checkpoint, CheckOptions(**options))


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HOME": "/h"}, "/h/.cache/huggingface/hub"),
        ({"HF_HOME": "$SCRATCH/hf", "SCRATCH": "/s"}, "/s/hf/hub"),
        ({"HF_HUB_CACHE": "~/hub", "HOME": "/h"}, "/h/hub"),
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(monkeypatch, environment, place):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(hub_cache()) == place


@pytest.mark.parametrize("revision", ["main", "v2", "refs/pr/3", COMMIT])
def test_a_snapshot_by_branch_tag_and_commit(cache, revision):
    snapshot = put(cache, "org/x", COMMIT, main=COMMIT, v2=COMMIT, refs__pr__3=COMMIT)
    put(cache, "org/x", OTHER)
    assert cached_snapshot("org/x", revision) == snapshot


def test_main_without_a_record_is_the_newest_snapshot(cache):
    assert cached_snapshot("org/x") is None
    snapshot = put(cache, "org/x")
    assert cached_snapshot("org/x") == snapshot


@pytest.mark.parametrize("revision", ["v9", "../../..", "", "/etc"])
def test_another_revision_is_not_taken_for_the_one_asked_for(cache, revision):
    put(cache, "org/x", main=COMMIT)
    assert cached_snapshot("org/x", revision) is None


@pytest.mark.parametrize("content", [b"../../../../etc", b"\xff\xfe", b""])
def test_a_damaged_record_leads_nowhere(cache, content):
    put(cache, "org/x", v1="x")
    (cache / "models--org--x" / "refs" / "v1").write_bytes(content)
    assert cached_snapshot("org/x", "v1") is None


def test_the_base_that_the_config_names(cache, tmp_path):
    snapshot = put(cache, "org/x", main=COMMIT)
    assert found(adapter(tmp_path / "a", "org/x")) == (str(snapshot), "")


def test_at_the_revision_that_the_config_names(cache, tmp_path):
    put(cache, "org/x", OTHER, main=OTHER)
    old = put(cache, "org/x", COMMIT, v1=COMMIT)
    checkpoint = adapter(tmp_path / "a", "org/x", revision="v1")
    assert found(checkpoint)[0] == str(old)
    assert found(checkpoint, base="org/x")[0] == str(old)
    assert found(checkpoint, base="org/x@main")[0].endswith(OTHER)


def test_of_another_base_the_revision_says_nothing(cache, tmp_path):
    snapshot = put(cache, "org/y", main=COMMIT)
    assert found(adapter(tmp_path / "a", "org/x", revision="v1"), base="org/y")[0] == str(snapshot)


def test_a_revision_that_is_not_in_the_cache_is_said_to_be(cache, tmp_path):
    put(cache, "org/x", main=COMMIT)
    checkpoint = adapter(tmp_path / "a", "org/x", revision="v9")
    assert "is in the local cache, but not at revision `v9`" in found(checkpoint)[1]
    assert found(checkpoint, online=True) == ("org/x@v9", "")


def test_a_snapshot_without_a_config_is_said_to_be_one(cache, tmp_path):
    put(cache, "org/x", COMMIT, "tokenizer.json", main=COMMIT)
    assert "is in the local cache, but there is no `config.json` in it" in found(adapter(tmp_path / "a", "org/x"))[1]


def test_a_pipeline_is_a_base(cache, tmp_path):
    snapshot = put(cache, "org/sd", COMMIT, "model_index.json", main=COMMIT)
    assert found(adapter(tmp_path / "a", "org/sd"))[0] == str(snapshot)


NOT_MODELS = {
    "adapter_config.json": "it is an adapter itself",
    "model.Q4_K_M.gguf": "GGUF is llama.cpp's format",
    "consolidated.00.pth": "its author's own format",
    "notes.txt": "there is no `config.json` in it",
}


@pytest.mark.parametrize("file", NOT_MODELS)
def test_a_directory_that_is_no_model(cache, tmp_path, file):
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / file).write_text("{}")
    checkpoint = adapter(tmp_path / "a", str(tmp_path / "thing"))
    base, reason = found(checkpoint)
    assert base is None
    assert "is not a base model" in reason
    assert NOT_MODELS[file] in reason
    with pytest.raises(TargetError, match="is not a base model") as refused:
        found(checkpoint, base=str(tmp_path / "thing"))
    assert NOT_MODELS[file] in str(refused.value)


def test_an_adapter_in_place_of_the_base_names_its_own(cache, tmp_path):
    adapter(tmp_path / "other", "org/real")
    with pytest.raises(TargetError, match=r"it is an adapter itself, of `org/real`"):
        found(adapter(tmp_path / "a", "org/x"), base=str(tmp_path / "other"))


def test_a_file_is_no_base(cache, tmp_path):
    (tmp_path / "model.gguf").write_text("")
    with pytest.raises(TargetError, match="is a file: `--base` takes the directory of a model, or its id"):
        found(adapter(tmp_path / "a", "org/x"), base=str(tmp_path / "model.gguf"))


@pytest.mark.parametrize("odd", ["x" * 5000, "a\0b", "../..", "a/b/c/d", "https://huggingface.co/org/x", "@", "org/x@../y"])
def test_odd_names_are_nowhere(cache, tmp_path, odd):
    checkpoint = adapter(tmp_path / "a" / "b" / "c", odd)
    assert found(checkpoint)[0] is None
    with pytest.raises(TargetError, match="base"):
        found(checkpoint, base=odd)


def test_a_copy_beside_the_adapter(cache, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.json").write_text("{}")
    assert found(adapter(tmp_path / "runs" / "a", "org/x"))[0] == str(tmp_path / "x")


def test_an_adapter_by_id_and_revision(cache):
    put(cache, "org/a", OTHER, "adapter_config.json", main=OTHER)
    old = put(cache, "org/a", COMMIT, "adapter_config.json", v1=COMMIT)
    (place,) = places(["org/a@v1"])
    assert place.directory == old


def test_the_cache_may_be_read_only_links(cache, tmp_path):
    # Blobs and links, as the hub's client leaves them.
    snapshot = put(cache, "org/x", main=COMMIT)
    blobs = cache / "models--org--x" / "blobs"
    blobs.mkdir()
    shutil.move(snapshot / "config.json", blobs / "abc")
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    assert found(adapter(tmp_path / "a", "org/x"))[0] == str(snapshot)
    (blobs / "abc").unlink()
    assert "there is no `config.json` in it" in found(adapter(tmp_path / "b", "org/x"))[1]
