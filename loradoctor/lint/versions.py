"""Which library versions a file is written for: the settings' word, else the project's pins, else the newest.

A pin that leaves the newest version open (``peft>=0.14``) says nothing; an exact one or an upper bound does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

Version = tuple[int, ...]

LIBRARIES = frozenset({"peft", "transformers", "trl", "torch", "accelerate", "bitsandbytes", "diffusers", "unsloth"})

_REQUIREMENT = re.compile(r"^\s*['\"]?([A-Za-z0-9_.-]+)\s*(?:\[[^\]]*\])?\s*((?:(?:==|~=|<=|<|>=|>|!=)=?\s*[0-9][^,;\s'\"#]*\s*,?\s*)+)")
_CLAUSE = re.compile(r"(===?|~=|<=|<|>=|>|!=)\s*([0-9]+(?:\.[0-9]+)*)(\.\*)?")
_LOCKED = re.compile(r'^\[\[package\]\]\s*\nname = "([^"]+)"\s*\nversion = "([^"]+)"', re.MULTILINE)
_TOP = (".git", ".hg")


def parse(text: str) -> Version:
    """``"0.17.1"`` → ``(0, 17, 1)``; what follows the numbers is dropped."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[^0-9.]", text.strip())[0]))


def pinned(clauses: str) -> Version | None:
    """The newest version that a requirement's clauses allow, None where they leave it open."""
    best: Version | None = None
    for operator, text, wildcard in _CLAUSE.findall(clauses):
        version = parse(text)
        found: Version | None = None
        if operator in ("==", "==="):
            found = (*version, 999) if wildcard else version
        elif operator == "<=":
            found = version
        elif operator == "<":
            found = _just_below(version)
        elif operator == "~=" and len(version) > 2:
            found = (*version[:-1], 999)
        if found is not None and (best is None or found < best):
            best = found
    return best


def _just_below(version: Version) -> Version:
    trimmed = list(version)
    while len(trimmed) > 1 and trimmed[-1] == 0:
        trimmed.pop()
    trimmed[-1] -= 1
    return (*trimmed, 999) if trimmed[-1] >= 0 else (0,)


def for_file(path: str, targets: Mapping[str, str] | None = None) -> dict[str, Version]:
    """The versions that ``path`` is written for, by library; a library that is not named is taken at its newest."""
    directory = Path(path).absolute().parent
    found = dict(_of_project(str(directory)))
    return found | {name: parse(text) for name, text in (targets or {}).items()}


@cache
def _of_project(directory: str) -> Mapping[str, Version]:
    """The pins nearest to a directory: its own files first, then its parents' up to the top of the repository."""
    here = Path(directory)
    found: dict[str, Version] = {}
    for place in (here, *here.parents):
        for name, version in _of_directory(str(place)).items():
            found.setdefault(name, version)
        if any((place / top).exists() for top in _TOP):
            break
    return found


@cache
def _of_directory(directory: str) -> Mapping[str, Version]:
    found: dict[str, Version] = {}
    for name, clauses in _requirements(Path(directory)):
        name = re.sub(r"[-_.]+", "-", name).lower()  # noqa: PLW2901
        version = pinned(clauses)
        if name in LIBRARIES and version is not None:
            found.setdefault(name, version)
    return found


def _requirements(place: Path) -> Iterator[tuple[str, str]]:
    """``(name, clauses)`` of every requirement in the files of one directory, locks first: they are exact."""
    for lock in ("uv.lock", "poetry.lock", "pdm.lock"):
        for name, version in _LOCKED.findall(_text(place / lock)):
            yield name, f"=={version}"
    project = place / "pyproject.toml"
    if project.is_file():
        yield from _split(_of_pyproject(_text(project)))
    try:
        listed = sorted(place.glob("requirements*.txt")) + sorted(place.glob("environment*.y*ml"))
    except OSError:
        listed = []
    for file in listed:
        lines = (line.strip().removeprefix("- ") for line in _text(file).splitlines())
        yield from _split(re.sub(r"^([A-Za-z0-9_.-]+)=(?=[0-9])", r"\1==", line) for line in lines)


def _of_pyproject(text: str) -> list[str]:
    import tomllib  # costs as much as ten rules

    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return []
    project = data.get("project")
    lines: list[object] = []
    if isinstance(project, dict):
        lines += project.get("dependencies", []) if isinstance(project.get("dependencies"), list) else []
        extras = project.get("optional-dependencies")
        lines += [line for extra in extras.values() if isinstance(extra, list) for line in extra] if isinstance(extras, dict) else []
    poetry = data.get("tool", {}).get("poetry", {}) if isinstance(data.get("tool"), dict) else {}
    table = poetry.get("dependencies", {}) if isinstance(poetry, dict) else {}
    if isinstance(table, dict):
        lines += [f"{name}=={spec}" for name, spec in table.items() if isinstance(spec, str) and spec[:1].isdigit()]
    return [line for line in lines if isinstance(line, str)]


def _split(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match:
            yield match.group(1), match.group(2)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() and path.stat().st_size < 20_000_000 else ""
    except OSError:
        return ""
