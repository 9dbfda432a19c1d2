"""The files around a source: where an import leads, and what stands there."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from loradoctor.lint import files, ir, lower
from loradoctor.lint.libraries import is_harmless
from loradoctor.lint.source import Source, SourceError

MODULES = 12
"""How many other files one file's analysis follows; deeper chains of helpers carry no model (labelled corpus: 5 at most)."""
KEPT = 1_500_000
"""How many characters of parsed files are kept for those that import them: a tree takes forty bytes for each."""
_SIZE = 150_000
_SMALL = 16_000
_SETTINGS = re.compile(r"conf|cfg|sett|const|arg|param|option|path|global|env", re.IGNORECASE).search
"""Modules of such names hold the paths and ids that scripts share; they are followed from the script itself, and only small ones."""
_TOP = (".git", ".hg")


@dataclass(frozen=True, eq=False)
class Unit:
    """A parsed and lowered file."""

    source: Source
    tree: lower.Tree
    program: ir.Program


@dataclass
class Project:
    """What the analysis of one file has followed so far; ``units`` are the other files, by path.

    ``consulted`` are all paths whose content or absence the result rests on; of a directory, the names in it.
    """

    path: str
    units: dict[str, Unit] = field(default_factory=dict)
    consulted: set[str] = field(default_factory=set)

    def find(self, dotted: str, importer: str) -> tuple[Unit, tuple[str, ...]] | None:
        """The file of this project that an import of ``dotted`` reads, and the names to look up in it.

        ``from .utils import build`` is asked as ``.utils.build``: a module ``utils/build.py``, or the name ``build`` of
        ``utils.py``.
        """
        if not importer or importer == "-" or is_harmless(dotted):
            return None
        own = importer == self.path
        for candidate, stem, rest in _places(dotted, str(Path(importer).parent)):
            self.consulted.add(candidate)
            if not _is_file(candidate):
                continue
            found = self._unit(candidate, settings=own and _SETTINGS(stem) is not None)
            if found is not None:
                return found, rest
        return None

    def holds(self, package: str) -> bool:
        """Whether a package of this name stands where absolute imports start."""
        for root in _roots(str(Path(self.path).parent)) if self.path not in ("", "-") else ():
            inside, place = str(root / "__init__.py"), str(root / package / "__init__.py")
            self.consulted |= {inside, place}
            if _is_file(place) and not _is_file(inside):  # an absolute import does not start in a package
                return True
        return False

    def _unit(self, path: str, *, settings: bool) -> Unit | None:
        if path in self.units:
            return self.units[path]
        if len(self.units) >= MODULES or path == self.path:
            return None
        source = _read(path, settings)
        found = _followed(source) if source is not None else None
        if found is not None:
            self.units[path] = found
        return found


@lru_cache(maxsize=16384)
def _places(dotted: str, directory: str) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Files that an import in a directory may mean, the most specific first: path, stem, and the names to look up in it."""
    dots = len(dotted) - len(dotted.lstrip("."))
    parts = tuple(p for p in dotted.lstrip(".").split(".") if p)
    here = Path(directory)
    roots = list(_roots(directory)) if not dots else [here if dots == 1 else here.joinpath(*[".."] * (dots - 1))]
    found: list[tuple[str, str, tuple[str, ...]]] = []
    for root in roots:
        for length in range(len(parts), 0, -1):
            place = root.joinpath(*parts[:length])
            module = place.with_name(f"{place.name}.py")
            found += [(str(module), module.stem, parts[length:]), (str(place / "__init__.py"), "__init__", parts[length:])]
    return tuple(found)


@lru_cache(maxsize=4096)
def _roots(directory: str) -> tuple[Path, ...]:
    """Where absolute imports may start: the directory itself and those above it, up to the top of the repository."""
    here = Path(directory)
    found = []
    for place in (here, *list(here.absolute().parents)[:4]):
        found += [place, place / "src"]
        if any((place / top).exists() for top in _TOP):
            break
    return tuple(found)


@lru_cache(maxsize=65536)
def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:
        return False


@lru_cache(maxsize=128)
def _read(path: str, settings: bool) -> Source | None:
    """A file that is worth following: it can be read, and builds models or, with ``settings``, names paths."""
    try:
        data = files.read(path)
        if len(data) > _SIZE or not (files.wraps_models(data) or (settings and len(data) <= _SMALL)):
            return None
        return Source.from_bytes(path, data)
    except (OSError, ValueError, SourceError):
        return None


_units: dict[str, Unit] = {}
_broken: dict[str, str] = {}
"""Of files that are imported and do not parse, the text: finding that out takes longer than parsing one that does."""


def _followed(source: Source) -> Unit | None:
    if _broken.get(source.path) == source.text:
        return None
    try:
        return unit(source)
    except (ValueError, RecursionError):
        _broken[source.path] = source.text
        return None


def unit(source: Source) -> Unit:
    """A parsed and lowered source, the same one as long as there is room. Raises :class:`loradoctor.lint.lower.ParseError`.

    Files that import one another are each parsed once, whichever of them is looked at.
    """
    known = _units.pop(source.path, None)
    if known is None or known.source.text != source.text:
        tree = lower.parse(source.text)
        known = Unit(source, tree, tree.lower())
    _units[source.path] = known
    room = KEPT - sum(len(u.source.text) for u in _units.values())
    while room < 0 and len(_units) > 1:
        room += len(_units.pop(next(iter(_units))).source.text)
    return known
