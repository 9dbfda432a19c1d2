"""`.bin` files as torch writes them and as attackers do; none is ever unpickled."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loradoctor.checkpoint import archive
from loradoctor.checkpoint.archive import read_archive
from loradoctor.checkpoint.fault import ReadError
from loradoctor.checkpoint.values import measure

torch = pytest.importorskip("torch")


def state() -> dict[str, Any]:
    torch.manual_seed(0)
    shared = torch.randn(4, 6)
    return {
        "plain": torch.randn(3, 5),
        "half": torch.randn(7).half(),
        "bf16": torch.randn(2, 2).bfloat16(),
        "ints": torch.arange(5),
        "transposed": shared.t(),
        "slice": shared[1:3],
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "fp8": torch.randn(4).to(torch.float8_e4m3fn),
    }


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("ordered", [True, False])
def test_every_tensor_is_found_where_torch_put_it(tmp_path: Path, *, new: bool, ordered: bool) -> None:
    path = tmp_path / "adapter_model.bin"
    tensors = state() if new else {k: v for k, v in state().items() if k != "fp8"}
    torch.save(OrderedDict(tensors) if ordered else tensors, path, _use_new_zipfile_serialization=new)
    header = read_archive(path)
    assert {n: i.shape for n, i in header.tensors.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    for name, stats in measure(path, header.tensors).items():
        values = tensors[name].detach().double()
        expected = values.abs().max().item() if values.numel() else 0.0
        assert stats.absmax == pytest.approx(expected, rel=1e-6), name
        rms = values.square().mean().sqrt().item() if values.numel() else 0.0
        assert stats.rms == pytest.approx(rms, rel=1e-5), name


def fault_of(path: Path) -> tuple[str, str]:
    with pytest.raises(ReadError) as caught:
        read_archive(path)
    return caught.value.fault.kind, str(caught.value.fault.data.get("cause"))


class Attack:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "attack", [Attack(os.system, "touch HACKED"), Attack(eval, "1"), Attack(__import__, "os"), Attack(getattr, "x", "upper")]
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_pickle_is_named_and_not_run(tmp_path: Path, attack: Attack, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "adapter_model.bin"
    torch.save({"a": torch.ones(2), "b": attack}, path, pickle_protocol=protocol)
    assert fault_of(path)[0] == "unsafe-pickle"
    assert not (tmp_path / "HACKED").exists()


def test_a_bare_malicious_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    path.write_bytes(pickle.dumps(Attack(os.system, "true")))
    assert fault_of(path)[0] == "unsafe-pickle"


def test_a_whole_module_is_not_a_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), path)
    assert fault_of(path) == ("not-a-state-dict", "whole-object")


def test_a_state_dict_under_a_key_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save({"epoch": 3, "state_dict": {"a": torch.ones(2)}}, path)
    assert fault_of(path) == ("not-a-state-dict", "nested-state-dict")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sparse_tensors_are_more_than_plain_ones(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save({"a": torch.sparse_coo_tensor([[0]], [1.0], (2,))}, path)
    assert fault_of(path) == ("not-a-state-dict", "special-tensors")


def test_an_empty_dict_reads_as_no_tensors(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save({}, path)
    assert read_archive(path).tensors == {}


def test_a_zip_bomb_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_PICKLE_LIMIT", 1 << 20)
    path = tmp_path / "adapter_model.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", bytes(8 << 20))
    assert fault_of(path) == ("unreadable-weights", "too-large")


def test_an_expanded_tensor_is_not_blown_up(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save({"a": torch.ones(1).expand(1 << 40)}, path)
    assert measure(path, read_archive(path).tensors) == {}


def test_a_dict_that_contains_itself_ends(tmp_path: Path) -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    buffer = io.BytesIO()
    torch.save(loop, buffer)
    path = tmp_path / "adapter_model.bin"
    path.write_bytes(buffer.getvalue())
    assert fault_of(path)[0] == "not-a-state-dict"


def stored(*, new: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(3, 2)}, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


# Made once: torch gives every archive an identifier of its own.
SOUND = [stored(new=True), stored(new=False)]


def test_a_stated_length_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    path.write_bytes(b"\x80\x02X\xff\xff\xff\x7fshort.")
    assert fault_of(path)[0] == "unreadable-weights"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_a_fault_and_never_a_crash(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SOUND)))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "adapter_model.bin"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        header = read_archive(path)
    except ReadError:
        return
    measure(path, header.tensors)
