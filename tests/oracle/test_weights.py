"""The base's weights in every form they come in, and what is said of those that cannot be read."""

from __future__ import annotations

import gc
import io
import json
import os
import pickle
import resource
import struct
import tarfile
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loradoctor.oracle.files import tensor_file
from loradoctor.oracle.files.weights import BaseWeights, WeightsError, absent

STATE = {
    "a.weight": torch.arange(24, dtype=torch.float32).reshape(6, 4),
    "b.weight": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "n": torch.tensor(3),
    "none": torch.zeros(0, 4),
}


def single(name):
    def write(directory):
        save_file(STATE, directory / name)

    return write


def sharded(index, shards):
    def write(directory):
        parts = [dict(list(STATE.items())[:2]), dict(list(STATE.items())[2:])]
        for shard, part in zip(shards, parts, strict=True):
            save_file(part, directory / shard) if shard.endswith(".safetensors") else torch.save(part, directory / shard)
        table = {name: shard for shard, part in zip(shards, parts, strict=True) for name in part}
        (directory / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))

    return write


def pickled(name, **options):
    def write(directory):
        torch.save(STATE, directory / name, **options)

    return write


LAYOUTS = {
    "single": single("model.safetensors"),
    "variant": single("model.fp16.safetensors"),
    "diffusion": single("diffusion_pytorch_model.safetensors"),
    "diffusion variant": single("diffusion_pytorch_model.fp16.safetensors"),
    "sharded": sharded("model.safetensors.index.json", ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")),
    "sharded variant": sharded("model.safetensors.index.fp16.json", ("model.fp16-00001-of-00002.safetensors", "x.safetensors")),
    "sharded diffusion": sharded("diffusion_pytorch_model.safetensors.index.json", ("d-1.safetensors", "d-2.safetensors")),
    "bin": pickled("pytorch_model.bin"),
    "bin of torch 1.5": pickled("pytorch_model.bin", _use_new_zipfile_serialization=False),
    "diffusion bin": pickled("diffusion_pytorch_model.bin"),
    "sharded bin": sharded("pytorch_model.bin.index.json", ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_same_tensors(tmp_path, layout):
    LAYOUTS[layout](tmp_path)
    with BaseWeights.at(tmp_path) as weights:
        assert set(weights.names()) == set(STATE)
        assert weights.nbytes == sum(t.nbytes for t in STATE.values())
        for name, tensor in STATE.items():
            assert "a.weight" in weights
            assert weights.file_of(name).is_file()
            assert (weights.info(name).dtype, weights.info(name).shape, weights.info(name).nbytes) == (tensor.dtype, tensor.shape, tensor.nbytes)
            assert torch.equal(weights.read(name), tensor)


@pytest.mark.parametrize("layout", ["single", "bin", "bin of torch 1.5"])
@pytest.mark.parametrize(("start", "stop"), [(0, 2), (2, 6), (5, 100), (3, 3), (4, 2), (-2, 6)])
def test_rows_are_those_of_the_tensor(tmp_path, layout, start, stop):
    LAYOUTS[layout](tmp_path)
    assert torch.equal(BaseWeights.at(tmp_path).rows("a.weight", start, stop), STATE["a.weight"][start:stop])


@pytest.mark.parametrize("dtype", [getattr(torch, name) for name in tensor_file._DTYPES.values() if hasattr(torch, name)])
def test_every_dtype_of_safetensors(tmp_path, dtype):
    bits = torch.randint(0, 2, (3, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    tensor = bits.view(dtype) if dtype != torch.bool else bits.bool()
    save_file({"t": tensor}, tmp_path / "model.safetensors")
    weights = BaseWeights.at(tmp_path)
    assert weights.info("t").dtype == dtype
    assert torch.equal(weights.read("t").view(torch.uint8), tensor.view(torch.uint8))
    assert torch.equal(weights.rows("t", 1, 2).view(torch.uint8), tensor[1:2].view(torch.uint8))


def test_what_is_read_can_be_written_and_the_file_stays(tmp_path):
    single("model.safetensors")(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    weights = BaseWeights.at(tmp_path)
    weights.read("a.weight").add_(1)
    weights.rows("b.weight", 0, 1).zero_()
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_file_may_be_many_times_the_memory(tmp_path):
    # Two terabytes with a hole for values: more than heuristic overcommit lets a program map for writing.
    path = tmp_path / "model.safetensors"
    shape = [10**8, 10**4]
    header = json.dumps({"w": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 2 * 10**12]}}).encode()
    try:
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + 2 * 10**12)
    except OSError:
        pytest.skip("the file system has no sparse files of this size")
    with BaseWeights.at(tmp_path) as weights:
        assert weights.nbytes == 2 * 10**12
        assert weights.rows("w", 10**8 - 2, 10**8).shape == (2, 10**4)
    path.unlink()


def test_a_file_system_without_mappings(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "_mapped", lambda _: None)
    single("model.safetensors")(tmp_path)
    weights = BaseWeights.at(tmp_path)
    assert all(torch.equal(weights.read(name), tensor) for name, tensor in STATE.items())
    assert torch.equal(weights.rows("a.weight", 1, 3), STATE["a.weight"][1:3])


@pytest.mark.parametrize("layout", ["single", "bin"])
def test_tensors_outlive_the_closing_and_files_open_again(tmp_path, layout):
    LAYOUTS[layout](tmp_path)
    weights = BaseWeights.at(tmp_path)
    kept = weights.read("a.weight")
    weights.close()
    gc.collect()
    assert torch.equal(kept, STATE["a.weight"])
    assert torch.equal(weights.read("a.weight"), kept)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are listed on Linux")
@pytest.mark.parametrize("layout", ["sharded", "sharded bin"])
def test_closing_leaves_no_descriptor(tmp_path, layout):
    def held():
        files = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return [file for file in files if file.is_relative_to(tmp_path)]

    LAYOUTS[layout](tmp_path)
    with BaseWeights.at(tmp_path) as weights:
        assert torch.equal(weights.read("n"), STATE["n"])
    gc.collect()
    assert held() == []


def test_a_description_reads_no_values(tmp_path):
    save_file({"w": torch.ones(4096, 4096)}, tmp_path / "model.safetensors")
    weights = BaseWeights.at(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    assert weights.info("w").shape == (4096, 4096)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 1000  # the values are 16,384 pages


def test_transformers_order_decides_between_several(tmp_path):
    LAYOUTS["bin"](tmp_path)
    LAYOUTS["sharded"](tmp_path)
    LAYOUTS["variant"](tmp_path)
    assert BaseWeights.at(tmp_path).file_of("n").name == "model-00002-of-00002.safetensors"
    LAYOUTS["single"](tmp_path)
    assert BaseWeights.at(tmp_path).file_of("n").name == "model.safetensors"


# --- what cannot be read ---------------------------------------------------------------------------------------------------------


def refused(directory, name="a.weight"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(WeightsError) as error:
            BaseWeights.at(directory).read(name)
    text = str(error.value)
    assert "\n" not in text
    return text


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def zipped(state, path):
    torch.save(state, path)


def old(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


def plain(state, path):
    path.write_bytes(pickle.dumps(state))


def tarred(state, path):
    with tarfile.open(path, "w") as archive:
        for member in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(state)
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


@pytest.mark.parametrize("write", [zipped, old, plain, tarred])
def test_a_pickle_that_would_run_code_is_named_and_does_not(tmp_path, write):
    write({"a.weight": Bomb(tmp_path / "exploded")}, tmp_path / "pytorch_model.bin")
    text = refused(tmp_path)
    assert not (tmp_path / "exploded").exists()
    assert "`pytorch_model.bin`" in text
    assert "it was not loaded" in text
    if write is plain:
        assert "`Unsupported operand" in text
    if write in (zipped, old):
        assert "asks for `io.open`" in text


def test_a_torch_that_does_not_unpickle_safely_is_not_asked_to(tmp_path, monkeypatch):
    LAYOUTS["bin"](tmp_path)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    assert refused(tmp_path) == "`pytorch_model.bin` is a pickle, which torch 2.5.1+cpu does not read safely; torch 2.6 does"


def test_pickles_that_are_no_state_dict(tmp_path):
    torch.save([1, 2], tmp_path / "pytorch_model.bin")
    assert refused(tmp_path) == "`pytorch_model.bin` is not a state dict"


@pytest.mark.parametrize("value", [3, "text", torch.zeros(2, 2).to_sparse(), torch.zeros(2, device="meta")])
def test_values_that_are_no_plain_tensors(tmp_path, value):
    torch.save({"a.weight": torch.zeros(2), "odd": value}, tmp_path / "pytorch_model.bin")
    index = {"weight_map": {"odd": "pytorch_model.bin"}}
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "s.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index).replace("pytorch_model.bin", "s.bin"))
    assert "odd" in refused(tmp_path, "odd")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04broken", b"<html>"])
def test_files_that_are_something_else(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert f"`{name}`" in refused(tmp_path)


@pytest.mark.parametrize("layout", ["single", "bin", "bin of torch 1.5"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_files(tmp_path, layout, kept):
    LAYOUTS[layout](tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert f"`{path.name}` cannot be read" in refused(tmp_path)


INDEXES = {
    "outside": ({"weight_map": {"a.weight": "../x.safetensors"}}, "names a shard outside its directory"),
    "absolute": ({"weight_map": {"a.weight": "/etc/passwd"}}, "names a shard outside its directory"),
    "zero byte": ({"weight_map": {"a.weight": "x\0.safetensors"}}, "names a shard outside its directory"),
    "empty name": ({"weight_map": {"a.weight": ""}}, "has no `weight_map`"),
    "no map": ({}, "has no `weight_map`"),
    "list": ([], "has no `weight_map`"),
    "map of numbers": ({"weight_map": {"a.weight": 3}}, "has no `weight_map`"),
    "missing shard": ({"weight_map": {"a.weight": "model-00001-of-00001.safetensors"}}, "`model-00001-of-00001.safetensors` is not here"),
    "directory": ({"weight_map": {"a.weight": "."}}, "is not here"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_that_leads_nowhere(tmp_path, case):
    raw, said = INDEXES[case]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(raw))
    assert said in refused(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\udcff", '{"weight_map": NaN}'])
def test_an_index_that_is_not_json(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "`model.safetensors.index.json`" in refused(tmp_path)


def test_a_shard_without_the_tensor_that_the_index_places_there(tmp_path):
    save_file({"other": torch.zeros(2)}, tmp_path / "s.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a.weight": "s.safetensors"}}))
    assert refused(tmp_path) == "`s.safetensors` has no tensor `a.weight`"


def test_a_pipe_in_place_of_a_shard_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "s.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a.weight": "s.safetensors"}}))
    assert refused(tmp_path) == "`s.safetensors` is not here"


def test_a_missing_shard_does_not_hide_the_others(tmp_path):
    LAYOUTS["sharded"](tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    weights = BaseWeights.at(tmp_path)
    assert torch.equal(weights.read("a.weight"), STATE["a.weight"])
    with pytest.raises(WeightsError, match="is not here"):
        weights.info("n")


ABSENT = {
    "model-Q4_K_M.gguf": "GGUF is llama.cpp's format",
    "consolidated.00.pth": "its author's own format",
    "adapter_model.safetensors": "it is an adapter itself",
    "tf_model.h5": "weights of TensorFlow",
    "model-00001-of-00002.safetensors": "a shard without the index",
    "weights.ckpt": "not a name that `from_pretrained` looks for",
    "tokenizer.json": "only its config",
    "training_args.bin": "only its config",
}


@pytest.mark.parametrize("name", ABSENT)
def test_what_lies_there_instead_of_weights(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"x")
    assert not BaseWeights.at(tmp_path)
    assert ABSENT[name] in absent(tmp_path)
