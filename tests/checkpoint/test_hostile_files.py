"""Directories that somebody made to break what reads them: each ends in a report, soon, and within some memory."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loradoctor.checkpoint import checkpoint
from loradoctor.checkpoint.layout import TargetError
from loradoctor.checkpoint.run import CheckOptions, check
from loradoctor.diagnostic import Report

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "org/b"}
SECONDS = 60
"""Generous: a busy machine passes, a quadratic or exponential walk does not."""


def stored(table: dict[str, Any] | bytes, body: bytes = b"") -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(*shape: int, dtype: object = "F32", at: tuple[float, float] = (0, 0)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(at)}


GOOD = stored(
    {f"{MODULE}.lora_A.weight": entry(2, 4, at=(0, 32)), f"{MODULE}.lora_B.weight": entry(4, 2, at=(32, 64))},
    struct.pack("<16f", *range(16)),
)


def codes(directory: Path) -> set[str]:
    return {d.code for d in examined(directory).diagnostics}


def examined(directory: Path) -> Report:
    begun = time.perf_counter()
    report = check(str(directory), CheckOptions(base="none"))
    assert time.perf_counter() - begun < SECONDS
    assert [d.message for d in report.diagnostics if d.code == "LD002"] == []
    assert all(len(d.message) < 20_000 for d in report.diagnostics)
    return report


def adapter(directory: Path, weights: bytes | None = GOOD, config: dict[str, Any] | str | None = CONFIG) -> Path:
    if weights is not None:
        (directory / "adapter_model.safetensors").write_bytes(weights)
    if config is not None:
        (directory / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return directory


def pickled(directory: Path, data: bytes) -> Path:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", data)
    (directory / "adapter_model.bin").write_bytes(buffer.getvalue())
    return adapter(directory, None)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(stored({"a": entry(2**40, 2**40)}), id="product overflows"),
        pytest.param(stored({"a": entry(*[2**62] * 100_000)}), id="many long dimensions"),
        pytest.param(stored({"a": entry(*[2**62] * 100_000, 0)}), id="many long dimensions and a zero"),
        pytest.param(stored({"a": entry(-1, 4, at=(0, 16))}, bytes(16)), id="negative length"),
        pytest.param(stored({"a": entry(4, at=(-16, 0))}, bytes(16)), id="negative offset"),
        pytest.param(stored({"a": entry(4, at=(0, 2**64 + 16))}, bytes(16)), id="overflowing offset"),
        pytest.param(stored({"a": entry(4, at=(0.0, 16))}, bytes(16)), id="offset with a point"),
        pytest.param(stored({"a": entry(4, at=(0, 16)), "b": entry(4, at=(8, 24))}, bytes(24)), id="overlap"),
        pytest.param(stored({"a": entry(4, dtype="x" * 1_000_000)}), id="long dtype"),
        pytest.param(stored({"x" * 1_000_000: entry(3, at=(0, 4))}, bytes(4)), id="long name"),
        pytest.param(stored(b'{"a":{"dtype":"F32","data_offsets":[0,0],"shape":' + b"[" * 900 + b"]" * 900 + b"}}"), id="deep shape"),
        pytest.param(stored(b'{"a":' * 100_000), id="deep"),
        pytest.param(stored(b'{"a":{"dtype":"F32","data_offsets":[0,0],"shape":[' + b"9" * 5000 + b"]}}"), id="huge integer"),
        pytest.param(stored(b'{"a":{"dtype":"F32","data_offsets":[NaN,1e999],"shape":[1]}}'), id="not numbers"),
        pytest.param(struct.pack("<Q", 100_000_000) + b"{", id="claims 100 MB"),
        pytest.param(struct.pack("<Q", 2**63) + b"{}", id="claims exabytes"),
    ],
)
def test_a_hostile_header_is_unreadable_weights(tmp_path: Path, header: bytes) -> None:
    assert codes(adapter(tmp_path, header)) == {"LD502"}


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
from loradoctor.checkpoint.run import CheckOptions, check
print(*sorted({d.code for d in check(sys.argv[1], CheckOptions(base="none")).diagnostics}))
"""


def codes_within(memory: int, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(directory), str(memory)], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own address space")
def test_a_header_of_100_megabytes_takes_bounded_memory(tmp_path: Path) -> None:
    assert codes_within(2 << 30, adapter(tmp_path, stored({"__metadata__": {"x": "y" * 99_000_000}}))) == "LD508"


def same(depth: int) -> bytes:
    """A tuple of twice the same tuple of twice the same ...: `depth` opcodes, 2 ** depth leaves when it is written out."""
    return b"(t" + b"2\x86" * depth


def nested_dicts(width: int) -> bytes:
    """Four dicts inside each other, each under ``width`` keys: width ** 4 paths."""
    data = b"}q\0"
    for level in range(4):
        keys = b"".join(b"X\6\0\0\0k%05dh%c" % (i, level) for i in range(width))
        data += b"}(" + keys + b"uq%c" % (level + 1)
    return data


def tensor(shape: bytes, strides: bytes, key: bytes = b"X\1\0\0\0a") -> bytes:
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuK\x10tQ"
    return b"}" + key + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0(" + shape + b"t(" + strides + b"t\x89}tRs"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(same(40) + b"(t" + b"2\x86" * 40 + b"\x93)R", id="named by a tuple"),
        pytest.param(same(40) + b")R", id="called a tuple"),
        pytest.param(b"ccollections\nOrderedDict\n(](" + same(40) + b"K\1\x86etR", id="keyed by a tuple"),
        pytest.param(nested_dicts(200), id="dicts in dicts"),
        pytest.param(tensor(b"\x8a\6\xff\xff\xff\xff\xff\0" * 100_000, b"K\1" * 100_000), id="many dimensions"),
        pytest.param(tensor(b"", b"", b"\x8b\x88\x13\0\0" + b"\x7f" * 5000), id="an integer of 12,000 digits as name"),
        pytest.param(b"I" + b"9" * 5000 + b"\n", id="an integer of 5,000 digits"),
        pytest.param(b"]" * 500_000 + b"a" * 499_999, id="deep lists"),
        pytest.param(b"]2a" * 1000, id="a list in itself"),
    ],
)
def test_a_pickle_that_grows_when_written_out_does_not(tmp_path: Path, data: bytes) -> None:
    assert codes(pickled(tmp_path, b"\x80\2" + data + b".")) <= {"LD502", "LD506", "LD507"}


def test_no_opcode_crashes_the_walk(tmp_path: Path) -> None:
    import pickletools

    for opcode in pickletools.opcodes:
        for before in (b"", b"(", b"}", b"](", b"K\1K\2", b"X\1\0\0\0aX\1\0\0\0b", b"cos\nsystem\n(X\2\0\0\0id"):
            for argument in (b"", b"0\n", b"\1\0\0\0a", b"a\nb\n", b"\xff" * 9):
                found = codes(pickled(tmp_path, b"\x80\2" + before + opcode.code.encode("latin-1") + argument + b"."))
                assert found <= {"LD502", "LD506", "LD507", "LD508"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize(
    "name",
    [
        "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "adapter_model.safetensors.index.json", "README.md",
        "training_args.bin", "args.json", "trainer_state.json", "added_tokens.json", "tokenizer_config.json", "config.json",
    ],
)  # fmt: skip
def test_a_pipe_without_a_writer_is_not_waited_for(tmp_path: Path, name: str) -> None:
    adapter(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    expected = {"adapter_config.json": {"LD004"}, "adapter_model.safetensors": {"LD501"}}
    assert codes(tmp_path) == expected.get(name, set())


@contextlib.contextmanager
def inside(directory: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(directory)
    yield
    os.chdir(before)


def listening(path: Path) -> None:
    with inside(path.parent), socket.socket(socket.AF_UNIX) as server:  # a socket's path may be only so long
        server.bind(path.name)


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(listening, id="socket"),
        pytest.param(Path.mkdir, id="directory"),
        pytest.param(lambda p: p.symlink_to(p.name), id="link to itself"),
        pytest.param(lambda p: p.symlink_to("/dev/zero"), id="link to a device"),
        pytest.param(lambda p: p.symlink_to("nowhere"), id="link to nothing"),
    ],
)
def test_what_is_no_file_is_no_weights_and_no_config(tmp_path: Path, make: Callable[[Path], None]) -> None:
    weights, config = tmp_path / "weights", tmp_path / "config"
    weights.mkdir()
    config.mkdir()
    make(adapter(weights, None) / "adapter_model.safetensors")
    assert codes(weights) == {"LD501"}
    make(adapter(config, config=None) / "adapter_config.json")
    assert codes(config) & {"LD004", "LD520"}


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no such permissions there")
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", ""])
def test_permission_denied_is_said(name: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o755)
        directory = Path(temporary, "adapter")
        directory.mkdir()
        adapter(directory)
        assert codes(directory) == set()  # and all modules are imported: another user may not be able to read the interpreter
        (directory / name).chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            assert "LD004" in codes(directory)
        except TargetError as error:
            if name or "permission denied" not in str(error):
                raise
        finally:
            os.seteuid(user)
            (directory / name).chmod(0o755)


def test_a_file_that_shrinks_after_its_header_was_read(tmp_path: Path) -> None:
    adapter(tmp_path)
    read = checkpoint.read(str(tmp_path), tmp_path)
    os.truncate(tmp_path / "adapter_model.safetensors", len(GOOD) - 20)
    assert read.values() == {}
    assert "could not be read to its end" in read.values_failure


@pytest.mark.parametrize("file", ["../../../../etc/passwd", "/etc/passwd", "adapter_model.safetensors.index.json", "\0", "a" * 5000])
def test_an_index_opens_nothing_outside(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapter_model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    opened: list[str] = []
    original = os.open

    def noted(name: Any, *more: Any, **named: Any) -> int:
        opened.append(str(name))
        return original(name, *more, **named)

    monkeypatch.setattr(os, "open", noted)
    assert codes(adapter(tmp_path, None)) == {"LD501"}
    assert all(Path(name).parent == tmp_path for name in opened if str(tmp_path) in name or "passwd" in name)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param("[" * 200_000, id="deep"),
        pytest.param('{"peft_type":"LORA","x":' + '{"a":' * 50_000 + "1" + "}" * 50_000 + "}", id="deep and closed"),
        pytest.param('{"peft_type":"LORA","r":' + "[" * 900 + "]" * 900 + "}", id="deep value"),
        pytest.param('{"peft_type":"LORA","r":' + "9" * 5000 + "}", id="5,000 digits"),
        pytest.param('{"peft_type":"LORA","r":1e999,"lora_alpha":NaN}', id="inf and nan"),
        pytest.param('{"peft_type":"LORA","lora_alpha":1' + "0" * 400 + ',"r":' + "9" * 300 + "}", id="beyond a float"),
        pytest.param('{"peft_type":"LORA","target_modules":["\\ud800"],"base_model_name_or_path":"\\udfff"}', id="surrogates"),
        pytest.param("{" + ",".join(['"a":1'] * 1_000_000) + ',"peft_type":"LORA"}', id="one key a million times"),
        pytest.param("{" + ",".join(f'"k{i}":1,"k{i}":2' for i in range(50_000)) + ',"peft_type":"LORA"}', id="many keys twice"),
        pytest.param(json.dumps({**CONFIG, "target_modules": [f"m{i}" for i in range(20_000)]}), id="many targets"),
        pytest.param(json.dumps({**CONFIG, "modules_to_save": [f"m{i}" for i in range(20_000)]}), id="many saved modules"),
        pytest.param(json.dumps({**CONFIG, **{f"f{i}": 1 for i in range(50_000)}}), id="many unknown fields"),
    ],
)
def test_a_hostile_config_ends_in_findings(tmp_path: Path, config: str) -> None:
    assert codes(adapter(tmp_path, config=config))


def test_a_name_of_half_a_million_levels_is_one_more_tensor(tmp_path: Path) -> None:
    assert codes(adapter(tmp_path, stored({"a." * 500_000 + "lora_A.weight": entry(1, at=(0, 4))}, bytes(4))))


def test_names_reach_the_terminal_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from loradoctor.cli import run

    name = "\x1b[2J\x1b]0;x\x07[red]../../etc/passwd\u202e\x9b2J.lora_A.weight"
    adapter(tmp_path, stored({name: entry(4, at=(0, 16))}, bytes(16)))
    with contextlib.suppress(SystemExit):
        run(["check", str(tmp_path), "--no-base"])
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert "[red]../../etc/passwd" in text
    assert not set("\x07\x9b\u202e") & set(text)
    assert "\x1b[2J" not in text
    assert "\x1b]" not in text


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own address space")
def test_a_quarter_million_tensors_take_bounded_time_and_memory(tmp_path: Path) -> None:
    names = (f"base_model.model.model.layers.{i // 2}.self_attn.q_proj.lora_{'AB'[i % 2]}.weight" for i in range(250_000))
    begun = time.perf_counter()
    assert codes_within(3 << 30, adapter(tmp_path, stored({name: entry(0) for name in names})))
    assert time.perf_counter() - begun < 240
