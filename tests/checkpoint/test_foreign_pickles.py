"""What people name `.bin`: every form is told apart, none is unpickled, harmless ones are not called attacks."""

from __future__ import annotations

import argparse
import collections
import gzip
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loradoctor.checkpoint.archive import read_archive
from loradoctor.checkpoint.fault import Fault, ReadError

torch = pytest.importorskip("torch")
numpy = pytest.importorskip("numpy")


def state() -> dict[str, Any]:
    return {"base_model.model.a.lora_A.weight": torch.rand(2, 3), "base_model.model.a.lora_B.weight": torch.rand(3, 2)}


def torch_save(value: Any, **options: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(value, path, **options)


def optimizer() -> dict[str, Any]:
    layer = torch.nn.Linear(2, 2)
    made = torch.optim.Adam(layer.parameters())
    layer(torch.ones(2)).sum().backward()
    made.step()
    return made.state_dict()


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = 3
            file.addfile(info, io.BytesIO(b"abc"))


def arrays(path: Path) -> None:
    with path.open("wb") as file:
        numpy.savez(file, a=numpy.zeros(3))


OLD = {"_use_new_zipfile_serialization": False}
ATTRIBUTES = argparse.Namespace(lr=1e-3)


@pytest.mark.parametrize(
    "build",
    [
        torch_save(state()),
        torch_save(collections.OrderedDict(state())),
        torch_save(state(), **OLD),
        torch_save({k: torch.nn.Parameter(v) for k, v in state().items()}),
        torch_save({**state(), "dtype": torch.float16, "device": torch.device("cpu")}),
    ],
)
def test_state_dicts_are_read(tmp_path: Path, build: Callable[[Path], object]) -> None:
    build(tmp_path / "adapter_model.bin")
    assert len(read_archive(tmp_path / "adapter_model.bin").tensors) == 2


def fault(path: Path) -> Fault:
    with pytest.raises(ReadError) as caught:
        read_archive(path)
    return caught.value.fault


@pytest.mark.parametrize(
    ("build", "kind", "cause", "words"),
    [
        (torch_save({"state_dict": state(), "step": 3}), "not-a-state-dict", "nested-state-dict", "`state_dict`"),
        (torch_save({"model": {"module": state()}}), "not-a-state-dict", "nested-state-dict", "`model.module`"),
        (
            torch_save({"model_state_dict": state(), "optimizer": optimizer()}),
            "not-a-state-dict",
            "nested-state-dict",
            "`model_state_dict`",
        ),
        (torch_save({"module": state(), "ds_config": {}, "ds_version": "0.14"}), "not-a-state-dict", "nested-state-dict", "`module`"),
        (torch_save({"model": state(), "args": ATTRIBUTES}), "not-a-state-dict", "nested-state-dict", "`model`"),
        (torch_save(torch.nn.Linear(2, 2)), "not-a-state-dict", "whole-object", "torch.nn.modules.linear.Linear"),
        (torch_save(torch.nn.Linear(2, 2), **OLD), "not-a-state-dict", "whole-object", "torch.nn.modules.linear.Linear"),
        (torch_save(list(state().values())), "not-a-state-dict", "whole-object", "`list`"),
        (torch_save(torch.rand(2)), "not-a-state-dict", "whole-object", "`Tensor`"),
        (torch_save(collections.defaultdict(int, state())), "not-a-state-dict", "whole-object", "defaultdict"),
        (torch_save({k: v.numpy() for k, v in state().items()}), "not-a-state-dict", "numpy-arrays", "NumPy arrays"),
        (lambda p: p.write_bytes(pickle.dumps({"a": numpy.zeros(3)}, protocol=4)), "not-a-state-dict", "numpy-arrays", "NumPy arrays"),
        (lambda p: p.write_bytes(pickle.dumps(state())), "not-a-state-dict", "special-tensors", "`pickle.dump`"),
        (torch_save({**state(), "a": torch.eye(3).to_sparse()}), "not-a-state-dict", "special-tensors", "more than plain tensors"),
        (arrays, "unreadable-weights", "wrong-format", "NumPy arrays"),
        (lambda p: p.write_bytes(gzip.compress(b"x" * 100)), "unreadable-weights", "wrong-format", "gzip"),
        (lambda p: p.write_bytes(b"<!DOCTYPE html><html>"), "unreadable-weights", "wrong-format", "HTML page"),
        (lambda p: p.write_bytes(b'{"error": "not found"}'), "unreadable-weights", "wrong-format", "JSON"),
        (tar, "unreadable-weights", "wrong-format", "tar archive"),
    ],
)
def test_everything_else_is_named(tmp_path: Path, build: Callable[[Path], object], kind: str, cause: str, words: str) -> None:
    build(tmp_path / "adapter_model.bin")
    found = fault(tmp_path / "adapter_model.bin")
    assert (found.kind, found.data["cause"]) == (kind, cause)
    assert words in found.message


def test_an_attack_inside_a_nested_dict_is_one(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            import os

            return os.system, ("echo this file was unpickled",)

    torch.save({"state_dict": state(), "hook": Attack()}, tmp_path / "adapter_model.bin")
    assert fault(tmp_path / "adapter_model.bin").kind == "unsafe-pickle"


def test_a_nested_state_can_be_taken_out(tmp_path: Path) -> None:
    torch.save({"model": {"module": state()}, "optimizer": optimizer()}, tmp_path / "a.bin")
    assert read_archive(tmp_path / "a.bin", unnest=True).tensors.keys() == state().keys()


def test_of_two_nested_states_none_is_chosen(tmp_path: Path) -> None:
    torch.save({"model": state(), "ema": state()}, tmp_path / "a.bin")
    with pytest.raises(ReadError, match="under the key `model`"):
        read_archive(tmp_path / "a.bin", unnest=True)
