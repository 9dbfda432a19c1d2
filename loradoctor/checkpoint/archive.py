"""A torch `.bin` as a file: the zip of torch >= 1.6, or the older stream of pickles."""

from __future__ import annotations

import os
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO

from loradoctor.checkpoint.header import Header, is_lfs_pointer, lfs_pointer
from loradoctor.checkpoint.legacy import read_stream
from loradoctor.checkpoint.opening import opened
from loradoctor.checkpoint.pickle import Storage
from loradoctor.checkpoint.state_dict import broken, not_a_state_dict, state_dict

_PICKLE_LIMIT = 256 << 20
_MEMBER_LIMIT = 1_000_000
_OTHERS = (
    (b"\x1f\x8b", "compressed by gzip", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it first"),
    (b"\x89HDF", "an HDF5 file", "it is Keras's or h5py's: read it with that"),
    (b"\x93NUMPY", "a NumPy array", "read it with `numpy.load`"),
    (b"algg", "a LoRA in llama.cpp's format before GGUF", "llama.cpp no longer reads it either: go back to the adapter it was made from"),
    (b"GGUF", "a GGUF file", "name it `.gguf` and use it with llama.cpp"),
    (b"<!DOCTY", "an HTML page", "the download fetched a page instead of the file: fetch it again"),
    (b"<html", "an HTML page", "the download fetched a page instead of the file: fetch it again"),
    (b"{", "JSON text", "the download fetched an answer instead of the file: fetch it again"),
)
"""Files that are taken for a `.bin` now and then: their first bytes, what they are, what to do."""


def read_archive(path: Path, *, unnest: bool = False) -> Header:
    """The tensors of a `.bin`, also of one inside other dicts with ``unnest``.

    Raises :class:`ReadError` (LD502, LD503, LD506, LD507) and OSError.
    """
    with warnings.catch_warnings(), opened(path) as file:
        # An escape in a text opcode can make the standard library warn about source code that nobody wrote.
        warnings.simplefilter("ignore")
        lead = file.read(512)
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise broken(path, "is empty (0 bytes)", "empty")
        if is_lfs_pointer(lead):
            raise lfs_pointer(path, lead)
        file.seek(0)
        if lead.startswith(b"PK\x03\x04"):
            return _zip(path, file, size, unnest=unnest)
        if lead.startswith(b"\x80") and lead[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            return read_stream(path, file, size, unnest=unnest)
    if len(lead) > 8 and int.from_bytes(lead[:8], "little") < size and lead[8:9] == b"{":
        raise broken(path, "is a safetensors file", "wrong-format", "rename it to `adapter_model.safetensors`")
    if found := next(((what, way_out) for magic, what, way_out in _OTHERS if lead.startswith(magic)), None):
        raise broken(path, f"is {found[0]}, not a file of `torch.save`", "wrong-format", found[1])
    if lead[257:262] == b"ustar":
        raise broken(
            path, "is a tar archive: unpacked files, or a file of PyTorch before 0.2", "wrong-format", "unpack it, or save it anew"
        )
    raise broken(path, "is neither a PyTorch archive nor a pickle", "wrong-format")


def _zip(path: Path, file: IO[bytes], size: int, *, unnest: bool) -> Header:
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()[:_MEMBER_LIMIT]}
            pickles = [name for name in members if name.endswith("data.pkl") and name.count("/") <= 1]
            if not pickles:
                arrays = any(name.endswith(".npy") for name in members)
                what = "NumPy arrays (`.npz`)" if arrays else "a zip archive without `data.pkl`"
                raise broken(path, f"is {what}", "wrong-format", "read it with `numpy.load`" if arrays else "")
            if any(name.endswith("/constants.pkl") for name in members):
                raise not_a_state_dict(path, "holds a TorchScript program, not a state dict", "whole-object", ())
            name = pickles[0]
            # The size in the directory is the attacker's word: read no more than the limit, whatever it says.
            data = _member(archive, name, _PICKLE_LIMIT + 1)
            order = f"{name.removesuffix('data.pkl')}byteorder"
            big = order in members and _member(archive, order, 3) == b"big"
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, KeyError, zlib.error) as error:
        raise broken(path, f"is a damaged zip archive: {str(error)[:80].lower()}", "truncated") from error
    if len(data) > _PICKLE_LIMIT:
        raise broken(path, f"has a pickle of more than {_PICKLE_LIMIT >> 20} MB", "too-large")
    if big:
        raise broken(path, "was written on a big-endian machine", "byteorder", "load it with torch and save it as safetensors")
    root = name.removesuffix("data.pkl")

    def where(storage: Storage) -> tuple[int, int]:
        return _zip_range(path, file, members.get(f"{root}data/{storage.key}"), storage, size)

    return state_dict(path, data, where, unnest=unnest)


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError("a compression that torch does not know")
    with archive.open(name) as member:
        return member.read(limit)


def _zip_range(path: Path, file: IO[bytes], member: zipfile.ZipInfo | None, storage: Storage, size: int) -> tuple[int, int]:
    if member is None:
        raise broken(path, f"lacks the entry `data/{storage.key}` of a tensor", "truncated")
    if member.compress_type != zipfile.ZIP_STORED:
        raise broken(path, f"has the entry `{member.filename}` compressed, which torch does not write", "wrong-format")
    file.seek(member.header_offset + 26)
    lengths = file.read(4)
    start = member.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    if start + member.file_size > size:
        raise broken(path, f"ends inside the entry `{member.filename}`", "truncated")
    return start, start + member.file_size
