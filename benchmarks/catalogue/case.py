"""The register of cases: how each is made, what PEFT does with it, and what `check` owes the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CASES: dict[str, Case] = {}


@dataclass(frozen=True)
class Case:
    """One directory.

    ``light`` and ``base`` are the codes wanted at warning level or above without and with the base ``on``: blanks separate codes that
    must all be there, ``a|b`` accepts either, ``a?`` permits one. ``wrong`` says that what PEFT loads differs from what was trained (or that it
    loads nothing at all), ``beyond`` why neither files nor base can tell.
    """

    name: str
    build: Callable[[Path], None]
    peft: str
    on: str
    light: str
    base: str
    wrong: bool
    beyond: str


def case(
    name: str,
    peft: str = "silent",
    *,
    light: str = "",
    base: str | None = None,
    on: str = "llama",
    wrong: bool | None = None,
    beyond: str = "",
) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Register a builder under the catalogue's name; ``base`` is as ``light`` unless given, ``wrong`` as there is something to find."""

    def register(build: Callable[[Path], None]) -> Callable[[Path], None]:
        wanted = light if base is None else base
        hurts = bool(light or wanted or beyond) if wrong is None else wrong
        CASES[name] = Case(name, build, peft, on, light, wanted, hurts, beyond)
        return build

    return register


def accepts(wanted: str, found: frozenset[str]) -> bool:
    """Whether the codes ``found`` are what ``wanted`` asks for, no less and no more."""
    groups = [(frozenset(g.rstrip("?").split("|")), g.endswith("?")) for g in wanted.split()]
    permitted = frozenset().union(*(codes for codes, _ in groups)) if groups else frozenset()
    return found <= permitted and all(optional or codes & found for codes, optional in groups)
