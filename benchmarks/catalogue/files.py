"""Cases 800 to 822: the files themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from build_adapters import PICKLE, WEIGHTS
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from .case import case
from .models import adapt, rewrite_header, save

BROKEN = "error: SafetensorError"
Json = dict[str, Any]
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0f' * 32}\nsize 20983592\n"


def bytes_of(name: str, change: Callable[[bytes], bytes], code: str = "LD502") -> None:
    """A case that changes the bytes of the weights."""

    def build(to: Path) -> None:
        save(to)
        (to / WEIGHTS).write_bytes(change((to / WEIGHTS).read_bytes()))

    case(name, BROKEN, light=code)(build)


def header_of(name: str, change: Callable[[Json], bytes], tail: bytes = b"", *, peft: str = BROKEN, code: str = "LD502") -> None:
    """A case that changes the header of the weights."""

    def build(to: Path) -> None:
        save(to)
        rewrite_header(to / WEIGHTS, change, tail)

    case(name, peft, light=code)(build)


def one(header: Json) -> Json:
    """The entry of the last tensor in the file."""
    found: Json = max((v for k, v in header.items() if k != "__metadata__"), key=lambda v: v["data_offsets"][0])
    return found


def shifted(header: Json) -> bytes:
    one(header)["data_offsets"] = [n + 16 for n in one(header)["data_offsets"]]
    return json.dumps(header).encode()


def overlapping(header: Json) -> bytes:
    by_start = sorted((v for k, v in header.items() if k != "__metadata__"), key=lambda v: v["data_offsets"][0])
    by_start[1]["data_offsets"] = by_start[0]["data_offsets"]
    return json.dumps(header).encode()


def widened(header: Json) -> bytes:
    one(header)["shape"][1] += 1
    return json.dumps(header).encode()


def unknown(header: Json) -> bytes:
    one(header)["dtype"] = "F7"
    return json.dumps(header).encode()


def doubled(header: Json) -> bytes:
    name = next(k for k in header if k != "__metadata__")
    return (json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}").encode()


def unmarked(header: Json) -> bytes:
    return json.dumps({k: v for k, v in header.items() if k != "__metadata__"}).encode()


@case("800_weights_missing", "error: HFValidationError", light="LD501")
def missing(to: Path) -> None:
    save(to)
    (to / WEIGHTS).unlink()


bytes_of("801_zero_byte", lambda _: b"")
bytes_of("802_lfs_pointer", lambda _: POINTER.encode(), "LD503")


def pickled(to: Path, what: object) -> None:
    """The adapter with ``what`` as its `.bin`."""
    save(to)
    (to / WEIGHTS).unlink()
    torch.save(what, to / PICKLE)


@case("803_lfs_pointer_bin", "error: UnpicklingError", light="LD503")
def pointer_bin(to: Path) -> None:
    missing(to)
    (to / PICKLE).write_text(POINTER)


bytes_of("804_truncated", lambda data: data[:-100])
bytes_of("805_trailing_bytes", lambda data: data + bytes(16))
bytes_of("806_header_garbage", lambda data: data[:20] + bytes(b ^ 0xA5 for b in data[20:40]) + data[40:])
bytes_of("807_header_len_huge", lambda data: (2**62).to_bytes(8, "little") + data[8:])
header_of("808_overlapping_offsets", overlapping)
header_of("809_hole_in_data", shifted, bytes(16))
header_of("810_duplicate_header_key", doubled, peft="silent", code="LD504")
header_of("811_shape_vs_bytes", widened)
header_of("812_unknown_dtype", unknown)
header_of("813_no_format_metadata", unmarked, peft="silent", code="")


@case("814_both_disagree", light="LD505", wrong=False)
def both(to: Path) -> None:
    save(to)
    other = {k: v + torch.rand_like(v) for k, v in get_peft_model_state_dict(adapt()).items()}
    torch.save(other, to / PICKLE)


class Attack:
    """What a hostile pickle does when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo this file was unpickled",)


case("815_bin_malicious", "error: UnpicklingError", light="LD506")(lambda to: pickled(to, {"base_model.model.x": Attack()}))
case("816_bin_whole_model", "error: UnpicklingError", light="LD506|LD507")(lambda to: pickled(to, adapt()))


@case("817_bin_nested", "warning: missing keys, no effect", light="LD507")
def nested(to: Path) -> None:
    pickled(to, {"state_dict": get_peft_model_state_dict(adapt())})


@case("818_sharded_adapter", "error: HFValidationError", light="LD501")
def sharded(to: Path) -> None:
    save(to)
    tensors = sorted(load_file(to / WEIGHTS).items())
    parts = {f"adapter_model-0000{n}-of-00002.safetensors": dict(tensors[n - 1 :: 2]) for n in (1, 2)}
    for name, part in parts.items():
        save_file(part, to / name)
    index = {"metadata": {}, "weight_map": {k: name for name, part in parts.items() for k in part}}
    (to / "adapter_model.safetensors.index.json").write_text(json.dumps(index))
    (to / WEIGHTS).unlink()


@case("819_wrong_file_name", "error: HFValidationError", light="LD501")
def misnamed(to: Path) -> None:
    save(to)
    (to / WEIGHTS).rename(to / "model.safetensors")


@case("820_pickle_in_safetensors_name", BROKEN, light="LD502")
def pickle_as_safetensors(to: Path) -> None:
    save(to)
    torch.save(get_peft_model_state_dict(adapt()), to / WEIGHTS)


@case("821_safetensors_in_bin_name", "error: UnpicklingError", light="LD502")
def safetensors_as_pickle(to: Path) -> None:
    save(to)
    (to / WEIGHTS).rename(to / PICKLE)


@case("822_tokenizer_bigger", base="LD530", wrong=False)
def tokens_added(to: Path) -> None:
    save(to)
    (to / "added_tokens.json").write_text(json.dumps({"<start>": 64, "<end>": 65}))
