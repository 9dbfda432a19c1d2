"""The parameters that calls of the libraries have had, and their public names, by version.

What `tools/released_api.py` read out of released wheels; nothing here is written by hand.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from loradoctor.lint.record import record


@record
class Life:
    """The first version that has a name (None: as old as what was looked at), that warns of it (``0``: all of those), that lacks it again."""

    since: str | None
    deprecated: str | None = None
    until: str | None = None


@record
class Signature:
    """A call: the versions it exists in, the calls whose parameters it takes besides, whether it takes any other keyword."""

    since: str
    until: str | None
    bases: tuple[str, ...]
    open: bool
    parameters: dict[str, Life]


@cache
def signature(call: str) -> Signature | None:
    """The call of this name, if it was looked at."""
    row = _calls().get(call)
    if row is None:
        return None
    since: str = row["since"]
    lives = {name: _life(told, since) for name, told in row["parameters"].items()}
    bases = tuple(f"transformers.{base}" for base in row["bases"])
    return Signature(since, row.get("until"), bases, row["open"], lives)


def _life(told: str | list[str | None], oldest: str) -> Life:
    since, deprecated, until = told if isinstance(told, list) else (told, None, None)
    return Life(None if since == oldest else since, "0" if deprecated == oldest else deprecated, until)


@cache
def public_names() -> frozenset[str]:
    """All of ``library.Name`` that ever came or went."""
    return frozenset([line.partition(" ")[0] for line in _names().splitlines() if line])


@cache
def public_name(dotted: str) -> Life | None:
    """The life of ``library.Name`` as far as it came or went; None for one that was always there, or never."""
    if dotted not in public_names():
        return None
    text = _names()
    at = text.index(f"\n{dotted} ")
    since, until = text[at : text.index("\n", at + 1)].split()[1:]
    return Life(None if since == "-" else since, None, None if until == "-" else until)


@cache
def _calls() -> dict[str, dict[str, Any]]:
    import json  # here and below: most files call nothing that has changed

    found: dict[str, dict[str, Any]] = json.loads(files(__package__).joinpath("signatures.json").read_text(encoding="utf-8"))
    return found


@cache
def _names() -> str:
    import gzip

    return gzip.decompress(files(__package__).joinpath("public_names.txt.gz").read_bytes()).decode()
