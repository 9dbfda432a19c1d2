"""Damaged safetensors files: each fault is named, nothing else escapes."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from loradoctor.checkpoint.fault import ReadError
from loradoctor.checkpoint.header import HEADER_LIMIT, read_header

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((4,), np.int64), "empty": np.zeros((0, 3), np.float16)}


def file(header: dict[str, Any] | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, end: int, dtype: str = "F32", shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


def cause_of(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ReadError) as caught:
        read_header(path)
    return str(caught.value.fault.data["cause"])


def test_a_good_file_reads_as_safetensors_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(TENSORS, metadata={"format": "pt"}))
    header = read_header(path)
    assert {n: i.shape for n, i in header.tensors.items()} == {n: t.shape for n, t in TENSORS.items()}
    assert header.metadata == {"format": "pt"}
    content = path.read_bytes()
    assert content[header.tensors["a"].start : header.tensors["a"].end] == TENSORS["a"].tobytes()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (b"\x01\x02", "truncated"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n", "lfs-pointer"),
        (b"PK\x03\x04 a torch archive", "wrong-format"),
        (b"\x80\x02}q\x00.", "wrong-format"),
        (struct.pack("<Q", 1 << 62) + b"{}", "header-length"),
        (struct.pack("<Q", HEADER_LIMIT + 1) + b"{}", "header-length"),
        (struct.pack("<Q", 500) + b"{}", "truncated"),
        (file(b"\xff\xfe{}"), "header-encoding"),
        (file(b'{"a": '), "header-json"),
        (file(b"[1, 2]"), "header-json"),
        (file(b"{" + b'"a":{' * 5000 + b"}" * 5001), "header-json"),
        (file({"a": 3}), "header-json"),
        (file({"__metadata__": {"n": 3}}), "header-json"),
        (file({"a": entry(0, 8, dtype="F7")}, bytes(8)), "dtype"),
        (file({"a": entry(0, 8, shape=[-2])}, bytes(8)), "shape"),
        (file({"a": entry(0, 8, shape=[True, 2])}, bytes(8)), "shape"),
        (file({"a": {**entry(0, 8), "data_offsets": [8, 0]}}, bytes(8)), "offsets"),
        (file({"a": {**entry(0, 8), "data_offsets": [0, 1 << 70]}}, bytes(8)), "offsets"),
        (file({"a": {**entry(0, 8), "data_offsets": [0, -8]}}, bytes(8)), "offsets"),
        (file({"a": entry(0, 8, shape=[3])}, bytes(8)), "shape-bytes"),
        (file({"a": entry(0, 8)}, bytes(4)), "truncated"),
        (file({"a": entry(0, 8)}, bytes(9)), "trailing"),
        (file({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "overlap"),
        (file({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)), "hole"),
    ],
)
def test_each_fault_has_its_name(tmp_path: Path, content: bytes, cause: str) -> None:
    assert cause_of(tmp_path, content) == cause


def test_a_pointer_says_how_large_the_weights_are(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 20983592\n")
    with pytest.raises(ReadError, match="20,983,592 bytes"):
        read_header(path)


def test_a_name_that_stands_twice_is_seen(tmp_path: Path) -> None:
    body = json.dumps(entry(0, 8))
    path = tmp_path / "x.safetensors"
    path.write_bytes(file(f'{{"a": {body}, "a": {body}}}'.encode(), bytes(8)))
    assert read_header(path).repeated == ("a",)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_safetensors_refuses_we_refuse(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(save(TENSORS))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(content))
    try:
        with safe_open(path, "np") as opened:
            names = set(opened.keys())
    except SafetensorError:
        with pytest.raises(ReadError):
            read_header(path)
        return
    # We may be stricter than the reader about numbers and metadata, never laxer.
    outcome = read_or_cause(path)
    assert outcome in (names, "shape", "header-json")


def read_or_cause(path: Path) -> set[str] | str:
    try:
        return set(read_header(path).tensors)
    except ReadError as error:
        return str(error.fault.data["cause"])


def test_many_tensors_take_linear_time(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(file({f"layer.{i}": entry(4 * i, 4 * i + 4) for i in range(50_000)}, bytes(200_000)))
    start = time.process_time()
    assert len(read_header(path).tensors) == 50_000
    assert time.process_time() - start < 15


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    body = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).ljust(0x280).encode()
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(len(body).to_bytes(8, "little") + body + b"x")
    assert path.read_bytes().startswith(b"\x80\x02")
    assert set(read_header(path).tensors) == {"a"}
