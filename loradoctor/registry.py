"""Every rule of every kind of subject, found in one place."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from typing import Any

from loradoctor.rule import Rule

FAMILIES = {
    "tool": "loradoctor.self_report",
    "lint": "loradoctor.lint.rules",
    "checkpoint": "loradoctor.checkpoint.rules",
    "merge": "loradoctor.merge.rules",
}


class UnknownRule(ValueError):
    """A code or name that no rule has."""


@cache
def family(name: str) -> tuple[Rule[Any], ...]:
    """The rules of one family in the order of their codes; an import error in a rule is raised, never hidden."""
    package = importlib.import_module(FAMILIES[name])
    modules = [package]
    if hasattr(package, "__path__"):
        modules += [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    found = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, Rule)}
    return tuple(sorted(found.values(), key=lambda r: r.code))


@cache
def all_rules() -> tuple[Rule[Any], ...]:
    """Every rule there is, in the order of their codes."""
    return tuple(sorted((r for name in FAMILIES for r in family(name)), key=lambda r: r.code))


def find(code_or_name: str) -> Rule[Any]:
    """The rule with this code or name (case and ``_`` do not matter). Raises :class:`UnknownRule`."""
    wanted = code_or_name.strip().lower().replace("_", "-")
    for candidate in all_rules():
        if wanted in (candidate.code.lower(), candidate.name):
            return candidate
    raise UnknownRule(f"no rule is called `{code_or_name}`; {_hint(wanted)}")


def _hint(wanted: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(wanted, [r.name for r in all_rules()], n=1, cutoff=0.7)
    return f"did you mean `{close[0]}`?" if close else "`loradoctor rules` lists them all"


def resolve(selectors: Iterable[str]) -> frozenset[str]:
    """The codes that codes, names or code prefixes (``LD1``, ``LD30``) stand for. Raises :class:`UnknownRule`."""
    codes: set[str] = set()
    for selector in selectors:
        prefixed = {r.code for r in all_rules() if r.code.startswith(selector.strip().upper())}
        # The same mistake may be found in code and in files: its name then stands for both rules.
        codes |= prefixed if prefixed and selector.strip() else {r.code for r in all_rules() if r.name == find(selector).name}
    return frozenset(codes)
