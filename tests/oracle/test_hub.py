"""The hub, played by a server of the tests' own: what is asked of it, what is not, and what its refusals become."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

huggingface_hub = pytest.importorskip("huggingface_hub")

from loradoctor.checkpoint.run import CheckOptions, TargetError, check_many  # noqa: E402
from loradoctor.oracle import client  # noqa: E402
from loradoctor.oracle.files.hub import Repository, Unavailable, at, harmless  # noqa: E402
from tests.oracle import zoo  # noqa: E402
from tests.oracle.conftest import Examined  # noqa: E402
from tests.oracle.hub_server import serving  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
TOKEN = "hf_aVerySecretToken"


@pytest.fixture(scope="module")
def hub():
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory, hub):
    """An empty cache of the hub's files, for this process and the children it starts."""
    home = tmp_path_factory.mktemp("hf")
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HOME", str(home))
    patch.setenv("HF_ENDPOINT", hub.address)
    patch.setenv("HF_TOKEN", TOKEN)
    patch.setenv("HF_HUB_DISABLE_XET", "1")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        patch.delenv(name, raising=False)
    constants = huggingface_hub.constants  # read once, when this process imported it
    patch.setattr(constants, "ENDPOINT", hub.address)
    for module in (constants, huggingface_hub.file_download):  # before 1.0 it had a name of its own for it
        patch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}", raising=False)
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    client.close()
    yield home
    client.close()
    patch.undo()


@pytest.fixture(autouse=True)
def nothing_asked(hub, home):
    hub.forget()
    hub.cut_after.clear()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A llama whose four layers lie in several shards."""
    directory = tmp_path_factory.mktemp("sharded") / "base"
    model = zoo.llama(directory, num_hidden_layers=4)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="40KB")
    return directory


def adapter(directory, base, name, **fields):
    model = zoo.llama(directory / "scratch", num_hidden_layers=4)
    return zoo.adapter(directory / "adapter", model, zoo.lora(target_modules=["q_proj"], layers_to_transform=[1], **fields), base=name)


def check(path, **options):
    return Examined(check_many([str(path)], CheckOptions(**options)))


# --- one repository -------------------------------------------------------------------------------------------------------------


def test_a_file_lands_in_the_cache_at_its_commit(hub, home):
    commit = hub.add("org/plain", {"config.json": b"{}"})
    path = Repository("org/plain").file("config.json")
    assert path == home / "hub" / "models--org--plain" / "snapshots" / commit / "config.json"
    assert at(path.parent) == Repository("org/plain", commit, home / "hub")


def test_what_is_in_the_cache_is_not_asked_for_again(hub):
    hub.add("org/again", {"config.json": b"{}"})
    pinned = at(Repository("org/again").file("config.json").parent)
    hub.forget()
    pinned.file("config.json")
    assert hub.asked == []


def test_a_broken_download_goes_on_where_it_stopped(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    content = bytes(range(256)) * 2000
    hub.add("org/cut", {"model.safetensors": content})
    hub.cut_after["model.safetensors"] = 300_000
    assert Repository("org/cut").file("model.safetensors").read_bytes() == content
    assert [header for method, path, header in hub.asked if method == "GET" and path.endswith("!model.safetensors")] == ["", "bytes=300000-"]


REFUSALS = {
    "gated": (lambda hub: hub.add("org/gated", {"config.json": b"{}"}, gated=True), "`org/gated` is gated"),
    "nobody": (lambda _: None, "the hub has no `org/nobody`"),
    "revision": (lambda hub: hub.add("org/revision", {"config.json": b"{}"}), "`org/revision` has no revision `v9`"),
    "entry": (lambda hub: hub.add("org/entry", {"README.md": b""}), "`org/entry` has no file `config.json`"),
    "down": (lambda hub: hub.add("org/down", {}, status=503), "the hub answered 503"),
    "forbidden": (lambda hub: hub.add("org/forbidden", {}, status=403), "the hub answered 403"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_one_clause(hub, monkeypatch, case):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the library's own retries
    prepare, said = REFUSALS[case]
    prepare(hub)
    with pytest.raises(Unavailable) as refused:
        Repository(f"org/{case}", "v9" if case == "revision" else "main").file("config.json")
    text = str(refused.value)
    assert said in text
    assert "\n" not in text
    assert TOKEN not in text


def test_a_listing_cannot_lead_out_of_the_cache(hub):
    hub.add("org/astray", {"config.json": b"{}", "../adapter_config.json": b"{}", "/etc/passwd": b"", "a/../../x": b""})
    assert Repository("org/astray").listing() == ("config.json",)


def test_a_hub_that_nobody_runs(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="the hub cannot be reached"):
        Repository("org/any").listing()


def test_a_hub_that_does_not_answer(monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setattr("loradoctor.oracle.files.hub._PATIENCE", 0.2)
        with pytest.raises(Unavailable, match="did not answer in time"):
            Repository("org/any").listing()


def test_the_environment_may_forbid_what_the_option_permits(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable, match="HF_HUB_OFFLINE"):
        Repository("org/any").file("config.json")


@pytest.mark.parametrize("reference", ["../etc", "a/b/c", "org/name@../x", "org/name@", "", "org/na me"])
def test_what_is_no_name_of_a_repository(reference):
    with pytest.raises(Unavailable, match="is not the name of a repository"):
        Repository.parse(reference)


def test_a_full_disk_is_said_to_be(hub, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(Unavailable, match=r"no room on the disk for `model\.safetensors`"):
        Repository("org/any").file("model.safetensors")


@pytest.mark.parametrize(
    "text",
    [
        f"Illegal header value b'Bearer {TOKEN}\\n'",
        f"403 for https://user:{TOKEN}@mirror.example/x",
        "404 for https://cdn.example/x?Expires=1&Signature=s1gnature&Key=K then more",
    ],
)
def test_nothing_secret_is_repeated(text):
    assert not {TOKEN, "s1gnature", "user:"} & set(harmless(text).replace("?", " ").replace("@", " ").split())
    assert TOKEN not in harmless(text)
    assert "Signature" not in harmless(text)


def test_a_pipeline_is_known_by_the_configs_of_its_parts(hub):
    index = json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "X"]})
    weights = {"unet/diffusion_pytorch_model.safetensors": b"x"}
    hub.add("org/pipeline", {"model_index.json": index.encode(), "unet/config.json": b"{}", "vae/config.json": b"{}", **weights})
    directory = Repository("org/pipeline").configuration()
    assert sorted(p.relative_to(directory).as_posix() for p in directory.rglob("*.json")) == ["model_index.json", "unet/config.json"]
    assert hub.fetched("org/pipeline") == ["model_index.json", "unet/config.json"]


@pytest.mark.parametrize(("file", "said"), [("model.Q4.gguf", "GGUF"), ("adapter_config.json", "an adapter itself"), ("x", "no `config.json`")])
def test_a_repository_without_a_model(hub, file, said):
    name = f"org/no-model-{len(file)}"
    hub.add(name, {file: b""})
    with pytest.raises(Unavailable, match=said):
        Repository(name).configuration()
    assert hub.fetched(name) == []


# --- the base of an adapter, fetched by the child -------------------------------------------------------------------------------


def test_only_the_shards_that_hold_adapted_modules_are_fetched(hub, sharded, tmp_path):
    hub.add("org/sharded", sharded)
    shards = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {file for name, file in shards.items() if "layers.1.self_attn.q_proj" in name}
    assert needed < set(shards.values())
    result = check(adapter(tmp_path, sharded, "org/sharded"), online=True)
    assert result.check("merge-equivalence").status == "passed", result.check("merge-equivalence")
    assert sorted(hub.fetched()) == sorted({"config.json", "model.safetensors.index.json", *needed})


def test_nothing_is_asked_without_online(hub, sharded, tmp_path):
    hub.add("org/silent", sharded)
    result = check(adapter(tmp_path, sharded, "org/silent"))
    assert "`--online` fetches it" in result.check("loads").reason
    assert hub.asked == []


def test_a_single_file_is_fetched_whole(hub, tmp_path):
    zoo.llama(tmp_path / "base", num_hidden_layers=4)
    hub.add("org/single", tmp_path / "base")
    result = check(adapter(tmp_path, None, "org/single"), online=True)
    assert result.check("merge-equivalence").status == "passed"
    assert sorted(hub.fetched()) == ["config.json", "model.safetensors"]


def test_without_merging_the_config_is_enough(hub, sharded, tmp_path):
    hub.add("org/config", sharded)
    result = check(adapter(tmp_path, sharded, "org/config"), online=True, merge=False)
    assert result.check("loads").status == "passed"
    assert hub.fetched() == ["config.json"]


def test_a_cached_config_is_completed_by_the_shards_that_are_needed(hub, sharded, tmp_path):
    commit = hub.add("org/partial", sharded)
    path = adapter(tmp_path, sharded, "org/partial")
    check(path, online=True, merge=False)
    hub.forget()
    offline = check(path)
    assert offline.check("loads").status == "passed"
    assert "no weights here" in offline.check("merge-equivalence").reason
    assert hub.asked == []
    hub.add("org/partial", {"config.json": b"{}"})  # main moves on: the snapshot is completed at its own commit
    online = check(path, online=True)
    assert online.check("merge-equivalence").status == "passed"
    assert len(hub.fetched()) == 2
    assert online.report.subjects[0].facts["base_path"].endswith(commit)


def test_a_missing_shard_is_named_and_fetched(hub, home, sharded, tmp_path):
    hub.add("org/torn", sharded)
    path = adapter(tmp_path, sharded, "org/torn")
    check(path, online=True)
    (shard,) = (home / "hub" / "models--org--torn").glob("snapshots/*/model-*.safetensors")
    shard.resolve().unlink()
    shard.unlink()
    hub.forget()
    assert f"`{shard.name}` is not in the local cache; `--online` fetches it" in check(path).check("merge-equivalence").reason
    assert hub.asked == []
    assert check(path, online=True).check("merge-equivalence").status == "passed"
    assert hub.fetched() == [shard.name]


def test_the_revision_that_the_config_names(hub, sharded, tmp_path):
    hub.add("org/moved", {"config.json": b"{}"})
    commit = hub.add("org/moved", sharded, branch="v2")
    path = adapter(tmp_path, sharded, "org/moved", revision="v2")
    result = check(path, online=True)
    assert result.check("merge-equivalence").status == "passed"
    assert result.report.subjects[0].facts["base_path"].endswith(commit)
    hub.forget()
    assert check(path).check("merge-equivalence").status == "passed"
    assert hub.asked == []


def test_a_revision_can_be_asked_for(hub, sharded, tmp_path):
    hub.add("org/tagged", {"config.json": b"{}"})
    hub.add("org/tagged", sharded, branch="v1.0")
    assert check(adapter(tmp_path, sharded, "org/other"), base="org/tagged@v1.0", online=True).check("loads").status == "passed"


def test_a_broken_shard_download_is_resumed_by_the_child(hub, tmp_path):
    model = zoo.llama(tmp_path / "base", vocab_size=100_000)
    hub.add("org/broken", tmp_path / "base")
    hub.cut_after["model.safetensors"] = 15_000_000
    path = zoo.adapter(tmp_path / "adapter", model, zoo.lora(), base="org/broken")
    assert check(path, online=True).check("merge-equivalence").status == "passed"
    # The library writes in pieces of 10 MiB: what came after the last of them is fetched again.
    assert [header for _, path, header in hub.asked if path.endswith("!model.safetensors") and header] == ["bytes=10485760-"]


def test_a_run_that_failed_halfway_is_completed_by_the_next(hub, sharded, tmp_path):
    shards = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    commit = hub.add("org/halfway", sharded)
    first, last = (shards[f"model.layers.{layer}.self_attn.q_proj.weight"] for layer in (0, 3))
    files = hub.repos["org/halfway"].commits[commit]
    withheld = files.pop(last)
    model = zoo.llama(tmp_path / "scratch", num_hidden_layers=4)
    config = zoo.lora(target_modules=["q_proj"], layers_to_transform=[0, 3])
    path = zoo.adapter(tmp_path / "adapter", model, config, base="org/halfway")
    assert f"`org/halfway` has no file `{last}`" in check(path, online=True).check("merge-equivalence").reason
    files[last] = withheld
    hub.forget()
    assert check(path, online=True).check("merge-equivalence").status == "passed"
    assert hub.fetched() == [last] != [first]


def test_a_gated_base_is_a_reason_or_a_refusal(hub, sharded, tmp_path):
    hub.add("org/shut", sharded, gated=True)
    path = adapter(tmp_path, sharded, "org/shut")
    result = check(path, online=True)
    assert result.codes == []
    assert "`org/shut` is gated" in result.check("loads").reason
    with pytest.raises(TargetError, match="`org/shut` is gated"):
        check(path, base="org/shut", online=True)


def test_a_merge_fetches_what_goes_along(hub, sharded, tmp_path):
    from loradoctor.merge.run import MergeOptions, merge

    beside = {"tokenizer.json": b"{}", "tokenizer_config.json": b'{"a": 1}', "LICENSE": b"free", "pytorch_model.bin": b"not needed"}
    weights = {path.name: path.read_bytes() for path in sharded.iterdir()}
    hub.add("org/to-merge", {**weights, **beside})
    outcome = merge([str(adapter(tmp_path, sharded, "org/to-merge"))], MergeOptions(output=str(tmp_path / "out"), online=True))
    assert outcome.status == "merged", outcome
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "LICENSE", "generation_config.json"} <= written
    assert set(hub.fetched("org/to-merge")) == {*weights, *beside} - {"pytorch_model.bin"}


# --- the adapter itself by its id -----------------------------------------------------------------------------------------------


def run(*arguments, **environment):
    command = [sys.executable, "-m", "loradoctor", "check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False, timeout=300)


def test_adapter_and_base_by_id(hub, sharded, tmp_path):
    hub.add("org/base-of-it", sharded)
    path = adapter(tmp_path, sharded, "org/base-of-it")
    (path / "tokenizer.json").write_text("{}")
    (path / "optimizer.pt").write_bytes(b"large")
    hub.add("org/adapter", path)
    done = run("org/adapter", "--online", "--format", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {c["name"]: c["status"] for c in json.loads(done.stdout)["checks"]}
    assert (found["loads"], found["merge-equivalence"]) == ("passed", "passed")
    assert done.stderr == ""
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(hub.fetched("org/adapter"))
    assert not {"tokenizer.json", "optimizer.pt"} & set(hub.fetched("org/adapter"))
    assert hub.tokens
    assert TOKEN not in done.stdout + done.stderr


def test_an_adapter_by_id_is_not_asked_for_without_online(hub, sharded, tmp_path):
    hub.add("org/quiet", adapter(tmp_path, sharded, "org/sharded"))
    with pytest.raises(TargetError, match="`--online` permits fetching it"):
        check("org/quiet")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("files", "said"),
    [({"config.json": b"{}", "model.safetensors": b"x"}, "it is a full model, not an adapter"), ({"README.md": b""}, "there is no adapter in it")],
)
def test_a_repository_without_an_adapter(hub, files, said):
    name = f"org/no-adapter-{len(files)}"
    hub.add(name, files)
    with pytest.raises(TargetError, match=said):
        check(name, online=True)
    assert hub.fetched() == []


def test_adapters_below_the_top_are_fetched(hub, sharded, tmp_path):
    path = adapter(tmp_path, sharded, "org/sharded")
    hub.add("org/several", {f"{n}/{p.name}": p.read_bytes() for n in ("one", "two") for p in path.iterdir() if p.is_file()})
    assert len(check("org/several", online=True, base="none").report.subjects) == 2


def test_an_unreachable_hub_is_one_line_and_exit_code_two(home):
    done = run("org/nowhere", "--online", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "`org/nowhere` cannot be had from the hub: the hub cannot be reached" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
