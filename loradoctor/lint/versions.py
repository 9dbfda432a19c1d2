"""Which library versions a file is written for: the settings' word, else the project's pins, else the newest.

A pin that leaves the newest version open (``peft>=0.14``) says nothing; an exact one or an upper bound does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from loradoctor.lint.files import COPIES
from loradoctor.lint.installs import NEWEST, Installs, requirement

Version = tuple[int, ...]

OPEN = 999
"""What stands for a part of a version that a bound leaves open."""

LIBRARIES = frozenset({"peft", "transformers", "trl", "torch", "accelerate", "bitsandbytes", "diffusers", "unsloth"})

_OWN_VERSION = re.compile(r"^__version__\s*=\s*[\"']([0-9.]+?)(\.?dev\w*)?[\"']", re.MULTILINE)

_CLAUSE = re.compile(r"(===?|~=|<=|<|>=|>|!=)\s*([0-9]+(?:\.[0-9]+)*)(\.\*)?")
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
            found = (*version, OPEN) if wildcard else version
        elif operator == "<=":
            found = version
        elif operator == "<":
            found = _just_below(version)
        elif operator == "~=" and len(version) > 2:
            found = (*version[:-1], OPEN)
        if found is not None and (best is None or found < best):
            best = found
    return best


def _floor(clauses: str) -> Version:
    """The oldest version that a requirement's clauses allow, as far as they say."""
    return max((parse(text) for operator, text, _ in _CLAUSE.findall(clauses) if operator in (">=", ">", "~=")), default=())


def _just_below(version: Version) -> Version:
    trimmed = list(version)
    while len(trimmed) > 1 and trimmed[-1] == 0:
        trimmed.pop()
    trimmed[-1] -= 1
    return (*trimmed, OPEN) if trimmed[-1] >= 0 else (0,)


def for_file(path: str, targets: Mapping[str, str] | None = None, own: Installs | None = None) -> dict[str, Version]:
    """The versions that ``path`` is written for, by library; a library that is not named is taken at its newest.

    What the settings say goes before what the file itself installs (``own``), and that before the project's pins.
    """
    directory = Path(path).absolute().parent
    found = dict(_of_project(str(directory)))
    for name, version in _installed(own or Installs(), directory):
        if version is None:
            found.pop(name, None)
        else:
            found[name] = version
    for name in [name for name, version in found.items() if own is not None and version < _floor(own.floors.get(name, ""))]:
        del found[name]  # what is older than the file itself asks for makes way for the newest
    return found | {name: parse(text) for name, text in (targets or {}).items()}


def _installed(own: Installs, directory: Path) -> Iterator[tuple[str, Version | None]]:
    """The libraries that a file installs, each with its version or None for the newest."""
    for file in own.files:
        yield from _pins(_split(_text(directory / file).splitlines()))
    for name, clauses in own.requirements.items():
        if name in LIBRARIES:
            yield name, None if clauses == NEWEST else pinned(clauses)


@cache
def _of_project(directory: str) -> Mapping[str, Version]:
    """The pins nearest to a directory: its own files first, then its parents' up to the top of the repository.

    A copy of a library that stands where an import may find it goes before what is pinned.
    """
    here = Path(directory)
    found: dict[str, Version] = {}
    copies: dict[str, Version] = {}
    for place in (here, *here.parents):
        for name, version in _of_directory(str(place)).items():
            found.setdefault(name, version)
        for name, version in _copied(str(place)).items():
            copies.setdefault(name, version)
        if any((place / top).exists() for top in _TOP):
            break
    return found | copies


@cache
def _of_directory(directory: str) -> Mapping[str, Version]:
    found: dict[str, Version] = {}
    for name, version in _pins(_requirements(Path(directory))):
        found.setdefault(name, version)
    return found


@cache
def _copied(directory: str) -> Mapping[str, Version]:
    """The versions of libraries whose source stands in a directory; one under development is older than what it is to be."""
    here = Path(directory)
    found: dict[str, Version] = {}
    for name, places in COPIES.items():
        for place in places:
            own = _OWN_VERSION.search(_text(here / place))
            if own is not None:
                found.setdefault(name, _just_below(parse(own[1])) if own[2] else parse(own[1]))
    return found


def _pins(requirements: Iterable[tuple[str, str]]) -> Iterator[tuple[str, Version]]:
    for name, clauses in requirements:
        known = _known(name)
        if known in LIBRARIES and (version := pinned(clauses)) is not None:
            yield known, version


def _known(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def left_open(directory: str) -> frozenset[str]:
    """The libraries that the nearest files to name them leave open; what pins them above is for other parts of the repository."""
    here = Path(directory)
    found: set[str] = set()
    decided: set[str] = set()
    for place in (here, *here.parents):
        fixed = set(_of_directory(str(place)))
        named = {_known(name) for name, _ in _requirements(place)} & LIBRARIES
        found |= named - fixed - decided
        decided |= fixed | named
        if any((place / top).exists() for top in _TOP):
            break
    return frozenset(found)


def _requirements(place: Path) -> Iterator[tuple[str, str]]:
    """``(name, clauses)`` of every requirement in the files of one directory, locks first: they are exact."""
    for lock, pattern in _LOCKS.items():
        for name, version in pattern.findall(_text(place / lock)):
            yield name, f"=={version}"
    for manifest, read in _MANIFESTS.items():
        if (place / manifest).is_file():
            yield from _split(read(_text(place / manifest)))
    for file in _listed(place, "requirements*.txt", "requirements*.in", "requirements/*.txt", "environment*.y*ml", "conda*.y*ml"):
        yield from _split(line.strip().removeprefix("- ") for line in _text(file).splitlines())


def _listed(place: Path, *patterns: str) -> list[Path]:
    """The files that match, `requirements.txt` before its variants."""
    try:
        return [file for pattern in patterns for file in sorted(place.glob(pattern), key=lambda file: file.stem)]
    except OSError:
        return []


def _of_toml(text: str) -> list[str]:
    """The requirements of a `pyproject.toml`, `Pipfile` or `pixi.toml`: lists of them, and tables from name to version."""
    import tomllib  # costs as much as ten rules

    try:
        data: object = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return []
    lines: list[object] = []
    for path in _LISTS:
        for found in _at(data, path):
            lines += found if isinstance(found, list) else []
    for path in _TABLES:
        for found in _at(data, path):
            if isinstance(found, dict):
                lines += [f"{name}{_clauses(spec)}" for name, spec in found.items()]
    return [line for line in lines if isinstance(line, str)]


def _at(data: object, path: str) -> list[object]:
    """What stands at a dotted path; a star is every key."""
    found = [data]
    for key in path.split("."):
        tables = [value for value in found if isinstance(value, dict)]
        found = [value for table in tables for name, value in table.items() if key in ("*", name)]
    return found


def _clauses(spec: object) -> str:
    """The clauses of a version in a table: Poetry's bare ones are exact, and `^0.4` keeps below 0.5."""
    text = spec.get("version") if isinstance(spec, dict) else spec
    if not isinstance(text, str):
        return ""
    if text.startswith("^"):
        numbers = parse(text[1:])
        return f"<0.{numbers[1] + 1}" if len(numbers) > 1 and numbers[0] == 0 else ""
    if text.startswith("~") and text[1:2].isdigit():
        return f"=={'.'.join(text[1:].split('.')[:2])}.*"
    return f"=={text}" if text[:1].isdigit() else text


def _of_setup(text: str) -> list[str]:
    """The requirements that stand as strings in a `setup.py`."""
    return [one or other for one, other in re.findall(r"\"([^\"\n]*)\"|'([^'\n]*)'", text)]


def _of_pipfile_lock(text: str) -> list[str]:
    import json

    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [f"{name}{_clauses(spec)}" for section in _at(data, "default") if isinstance(section, dict) for name, spec in section.items()]


_PACKAGE = re.compile(r'^\[\[package\]\]\s*\nname = "([^"]+)"\s*\nversion = "([^"]+)"', re.MULTILINE)
_LISTING = re.compile(r"^[ \t-]*name:[ \t]*([\w.-]+)[ \t]*\n[ \t]*version:[ \t]*['\"]?([0-9][\w.]*)", re.MULTILINE)
_LOCKS = {"uv.lock": _PACKAGE, "poetry.lock": _PACKAGE, "pdm.lock": _PACKAGE, "pixi.lock": _LISTING, "conda-lock.yml": _LISTING}
_MANIFESTS: dict[str, Callable[[str], list[str]]] = {
    "Pipfile.lock": _of_pipfile_lock,
    "pyproject.toml": _of_toml,
    "Pipfile": _of_toml,
    "pixi.toml": _of_toml,
    "setup.cfg": str.splitlines,
    "setup.py": _of_setup,
}
_LISTS = ("project.dependencies", "project.optional-dependencies.*", "dependency-groups.*", "tool.uv.constraint-dependencies")
_TABLES = (
    *("tool.poetry.dependencies", "tool.poetry.group.*.dependencies"),
    *("packages", "dependencies", "pypi-dependencies", "tool.pixi.dependencies", "tool.pixi.pypi-dependencies"),
)


def _split(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names with their clauses; repositories count by their tag."""
    for line in lines:
        found = requirement(line.partition(" #")[0])
        if found is not None:
            yield found


def _text(path: Path) -> str:
    try:
        data = path.read_bytes() if path.is_file() and path.stat().st_size < 20_000_000 else b""
    except OSError:
        return ""
    # What PowerShell redirects into a file is UTF-16.
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", "replace")
