"""What the modules of each architecture of transformers are called; the table is written by `tools/architectures.py`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

Names = dict[str, dict[str, list[str]]]


@cache
def table() -> Names:
    """By architecture and kind (`linear`, `conv1d`, `embedding` …) dotted module names, in which numbers are `#`."""
    import gzip  # here and below: only a file that names targets pays for reading the table
    import json

    data = files(__package__).joinpath("architectures.json.gz").read_bytes()
    found: Names = json.loads(gzip.decompress(data))["architectures"]
    return found


@cache
def inner_names() -> frozenset[str]:
    """Last components that are never the whole name of a module: a regular expression that is one of them matches nothing."""
    inner: set[str] = set()
    whole: set[str] = set()
    for kinds in table().values():
        for names in kinds.values():
            for name in names:
                head, _, last = name.rpartition(".")
                (inner if head else whole).add(last)
    return frozenset(inner - whole)
