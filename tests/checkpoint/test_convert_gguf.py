"""LoRA in GGUF: ggml's names, the rows of Llama's q and k, and headers that lie."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from loradoctor.checkpoint.fault import ReadError
from loradoctor.checkpoint.gguf import read_gguf
from tests.checkpoint.converting import assert_same, converted, drawn, llama, loaded, output, plans, refused, saved, torch, with_updates

NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
HEADS = {"attn_q": 4, "attn_k": 2}
KINDS = {"float32": 0, "float16": 1, "float64": 28}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(path: Path, tensors: Mapping[str, Any], architecture: str = "llama", alpha: float | None = 6.0, **more: str) -> Path:
    """A file as llama.cpp's `convert_lora_to_gguf.py` writes it (version 3, 32 bytes of alignment)."""
    strings = {"general.type": "adapter", "general.architecture": architecture, "adapter.type": "lora", **more}
    keys = [text(k) + struct.pack("<I", 8) + text(v) for k, v in strings.items()]
    keys += [text("adapter.lora.alpha") + struct.pack("<If", 6, alpha)] if alpha is not None else []
    keys += [text("general.tags") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")]
    entries, data = b"", b""
    for name, tensor in tensors.items():
        array = tensor.contiguous().numpy()
        shape = array.shape[::-1]
        entries += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, KINDS[str(array.dtype)], len(data))
        data += array.tobytes()
        data += bytes(-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + entries
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


def reordered(rows: Any, heads: int) -> Any:
    """`LlamaModel.permute` of llama.cpp's converter, applied to lora_b."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def adapter(path: Path, model: Any, architecture: str = "llama", **more: Any) -> tuple[Path, dict[str, Any]]:
    torch.manual_seed(1)
    tensors: dict[str, Any] = {}
    updates: dict[str, Any] = {}
    for layer in range(2):
        for ggml, hub in NAMES.items():
            module = f"model.layers.{layer}.{hub}"
            rows, columns = model.get_submodule(module).weight.shape
            a, b = drawn(4, columns), drawn(rows, 4)
            updates[module] = 1.5 * b @ a
            stem = f"blk.{layer}.{ggml}.weight"
            tensors |= {
                f"{stem}.lora_a": a,
                f"{stem}.lora_b": reordered(b, HEADS[ggml]) if ggml in HEADS and architecture == "llama" else b,
            }
    return gguf(path, tensors, architecture, **more), updates


def test_llama_is_the_same_function(tmp_path: Path) -> None:
    model = llama()
    source, updates = adapter(tmp_path / "lora.gguf", model)
    result = converted(source, tmp_path / "peft", saved(model, tmp_path / "base"))[""]
    assert_same(output(loaded(model, result)), output(with_updates(model, updates)), output(model))


def test_an_architecture_whose_rows_stay(tmp_path: Path) -> None:
    model = llama()
    source, updates = adapter(tmp_path / "lora.gguf", model, "qwen2")
    result = converted(source, tmp_path / "peft")[""]
    assert_same(output(loaded(model, result)), output(with_updates(model, updates)), output(model))


def test_embeddings_and_the_head(tmp_path: Path) -> None:
    model = llama()
    (a, b), (c, d) = (drawn(40, 4), drawn(32, 4)), (drawn(4, 32), drawn(40, 4))
    tensors = {"token_embd.weight.lora_a": a, "token_embd.weight.lora_b": b, "output.weight.lora_a": c, "output.weight.lora_b": d}
    result = converted(gguf(tmp_path / "lora.gguf", tensors), tmp_path / "peft", saved(model, tmp_path / "base"))[""]
    merged = with_updates(model, {"model.embed_tokens": 1.5 * a @ b.T, "lm_head": 1.5 * d @ c})
    assert_same(output(loaded(model, result)), output(merged), output(model))


def test_without_alpha_the_factor_is_one(tmp_path: Path) -> None:
    source, _ = adapter(tmp_path / "lora.gguf", llama(), "qwen2", alpha=None)
    (plan,) = plans(source).values()
    assert plan.config["r"] == plan.config["lora_alpha"] == 4


def test_the_rows_of_llama_need_the_base(tmp_path: Path) -> None:
    assert "head by head" in refused(adapter(tmp_path / "lora.gguf", llama())[0])


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    assert "`mamba`" in refused(adapter(tmp_path / "lora.gguf", llama(), "mamba")[0])


def test_it_reads_what_the_reference_package_writes(tmp_path: Path) -> None:
    package = pytest.importorskip("gguf", exc_type=ImportError)
    path = tmp_path / "lora.gguf"
    writer = package.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 16.0)
    first = drawn(4, 6).float()
    writer.add_tensor("blk.0.attn_q.weight.lora_a", first.numpy())
    writer.add_tensor("blk.0.attn_q.weight.lora_b", drawn(6, 4).half().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_gguf(path)
    info = header.tensors["blk.0.attn_q.weight.lora_a"]
    assert (info.dtype, info.shape) == ("F32", (4, 6))
    assert path.read_bytes()[info.start : info.end] == first.numpy().tobytes()
    assert header.tensors["blk.0.attn_q.weight.lora_b"].dtype == "F16"
    assert header.metadata["adapter.lora.alpha"] == "16.0"


def test_every_truncation_is_named(tmp_path: Path) -> None:
    path = gguf(tmp_path / "lora.gguf", {"blk.0.attn_q.weight.lora_a": drawn(4, 6)})
    whole = path.read_bytes()
    for length in range(4, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ReadError) as caught:
            read_gguf(path)
        assert caught.value.fault.kind == "unreadable-weights"


@pytest.mark.parametrize("field", range(4, 120, 4))
def test_numbers_that_lie_do_no_harm(tmp_path: Path, field: int) -> None:
    path = gguf(tmp_path / "lora.gguf", {"blk.0.attn_q.weight.lora_a": drawn(4, 6)})
    whole = bytearray(path.read_bytes())
    whole[field : field + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(whole)
    with contextlib.suppress(ReadError):
        read_gguf(path)


def test_a_quantized_lora_is_explained(tmp_path: Path) -> None:
    path = gguf(tmp_path / "lora.gguf", {"blk.0.attn_q.weight.lora_a": drawn(4, 6).float()})
    whole = bytearray(path.read_bytes())
    place = whole.index(b"blk.0") + len("blk.0.attn_q.weight.lora_a") + 4 + 16
    whole[place : place + 4] = struct.pack("<I", 8)
    path.write_bytes(whole)
    with pytest.raises(ReadError, match="LoRA in GGUF with 1 of 1 tensors quantized"):
        read_gguf(path)


def test_a_whole_model_is_no_adapter(tmp_path: Path) -> None:
    path = gguf(tmp_path / "model.gguf", {"blk.0.attn_q.weight": drawn(4, 6)}, **{"general.type": "model"})
    with pytest.raises(ReadError, match="holds a whole model"):
        read_gguf(path)
