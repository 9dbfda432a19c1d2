"""What earlier runs found out, so that only what has changed since is analysed again.

One file in ``.loradoctor_cache`` for each way of asking (version, settings): for every source its time, size and digest, the
report, and the paths that the report rests on. It is JSON and read with suspicion: it may come with a repository, so nothing
in it is ever run, and whatever is not as we write it is as good as not there.
"""
# ruff: noqa: PTH100, PTH103, PTH105, PTH108, PTH110, PTH112, PTH116, PTH118, PTH120, PTH123, PTH206, PTH208
# A warm run is mostly these calls: pathlib would double it.

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from itertools import chain
from typing import Any

from loradoctor import __version__
from loradoctor.config import Settings
from loradoctor.diagnostic import Report
from loradoctor.lint import files
from loradoctor.lint.stored import decoded, encoded

DIRECTORY = ".loradoctor_cache"
FORMAT = 1
KEPT = 4
"""How many ways of asking are remembered; those not used for longest are forgotten."""
_SETTLED = 2_000_000_000
"""Nanoseconds after which a file that is written again has another time on every file system there is."""
_COARSE = 50_000_000
"""Nanoseconds by which the clock that stamps files may be behind."""
_PINS = re.compile(r".*require.*|constraints.*|(environment|conda).*\.ya?ml|.*\.(lock|toml|cfg)|setup\.py|Pipfile")
_TOP = (".git", ".hg")
_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# This file marks a cache directory of loradoctor; see https://bford.info/cachedir/\n"

Entry = list[Any]
"""``[path as shown, time, size, digest, report, consulted]``; the last three are absent for a file without a relevant word."""


class Cache:
    """The cache of one run. Every failure to read or write it is the same as having none."""

    def __init__(self, settings: Settings) -> None:
        self.base = os.path.abspath(settings.root or os.curdir)
        self._here, self._lead = os.path.abspath(os.curdir), os.path.join(self.base, "")
        self.directory = os.path.join(self.base, DIRECTORY)
        self.path = os.path.join(self.directory, f"lint-{_key(settings, self.base)}.json")
        self.entries, self.marks = self._load()
        self.changed = False
        self._sound: dict[str, bool] = {}
        self._added: set[str] = set()
        self._moved: set[str] = set()
        self._began = time.time_ns() - _COARSE

    def _load(self) -> tuple[dict[str, Entry], dict[str, Any]]:
        try:
            stored = json.loads(files.read(self.path))
            entries, marks = stored["entries"], stored["marks"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}, {}
        if not (isinstance(entries, dict) and isinstance(marks, dict)):
            return {}, {}
        return {name: entry for name, entry in entries.items() if _is_entry(entry)}, marks

    def find(self, path: str) -> tuple[bool, Report | None]:
        """Whether the report on a file is known, and the report."""
        try:
            return self._find(path)
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
            return False, None

    def _find(self, path: str) -> tuple[bool, Report | None]:
        entry = self.entries.get(self._name(path))
        if entry is None or entry[0] != path:
            return False, None
        stat = os.stat(path)
        if (stat.st_mtime_ns, stat.st_size) != (entry[1], entry[2]):
            if len(entry) == 3 or stat.st_size != entry[2] or _digest(files.read(path)) != entry[3]:
                return False, None
            entry[1], self.changed = self._time(stat), True
        if len(entry) == 3:
            return True, None
        if not all(self._is_sound(place) for place in (*entry[5], self._pins_of(path))):
            return False, None
        return True, decoded(entry[4], path)

    def add(self, path: str, report: Report | None, consulted: Iterable[str]) -> None:
        """Remember the report on a file as it is now."""
        try:
            stat = self._unchanged(path)
            entry: Entry = [path, self._time(stat), stat.st_size]
            if report is not None:
                places = [self._name(place) for place in consulted if place != path]
                entry += [_digest(files.read(path)), encoded(report, path), places]
                for place in (*places, self._pins_of(path)):
                    self._mark(place)
        except (OSError, ValueError, TypeError, KeyError, IndexError):
            self.entries.pop(self._name(path), None)
            return
        self.entries[self._name(path)] = entry
        self._added.add(self._name(path))
        self.changed = True

    def save(self) -> None:
        """Write the cache where anything is new in it; a directory that cannot be written is left as it is."""
        if not self.changed:
            return
        self.entries = {name: e for name, e in self.entries.items() if name in self._added or self._stays(name, e)}
        used = {place for e in self.entries.values() if len(e) > 3 for place in (*e[5], self._pins_of(e[0]))}
        marks = {place: mark for place, mark in self.marks.items() if place in used}
        with suppress(OSError, ValueError):
            os.makedirs(self.directory, exist_ok=True)
            for name, text in ((".gitignore", "*\n"), ("CACHEDIR.TAG", _TAG)):
                if not os.path.exists(os.path.join(self.directory, name)):
                    _write(os.path.join(self.directory, name), text)
            _write(self.path, json.dumps({"entries": self.entries, "marks": marks}, separators=(",", ":")))
            self._forget()

    def _stays(self, name: str, entry: Entry) -> bool:
        """Whether an entry of an earlier run is still of use: what it rests on may have been looked at anew for another file."""
        moved = len(entry) > 3 and not self._moved.isdisjoint((*entry[5], self._pins_of(entry[0])))
        return not moved and os.path.exists(os.path.join(self.base, name))

    def _forget(self) -> None:
        ours = [os.path.join(self.directory, n) for n in os.listdir(self.directory) if n.startswith("lint-") and n.endswith(".json")]
        for path in sorted(ours, key=lambda p: os.stat(p).st_mtime_ns)[:-KEPT]:
            os.unlink(path)

    def _time(self, stat: os.stat_result) -> int:
        # A file of this very moment could be written once more without its time telling: it is compared by content next time.
        return stat.st_mtime_ns if stat.st_mtime_ns < self._began - _SETTLED else 0

    def _unchanged(self, path: str) -> os.stat_result:
        """The state of a path that this run has looked at. Raises ``ValueError`` when it may have become another one since."""
        stat = os.stat(path)
        if stat.st_mtime_ns >= self._began:
            raise ValueError("it changed while it was looked at")
        return stat

    # -- what reports rest on

    def _name(self, path: str) -> str:
        whole = path if path.startswith(os.sep) else os.path.join(self._here, path)
        return (os.path.normpath(whole) if ".." in whole else whole).removeprefix(self._lead)

    def _is_sound(self, place: str) -> bool:
        """Whether a path that reports rest on is as it was."""
        known = self._sound.get(place)
        if known is None:
            known = self._sound[place] = self._same(place)
        return known

    def _same(self, place: str) -> bool:
        before = self.marks[place]
        now = self._state(place)
        if now == before:
            return True
        if not (isinstance(before, list) and isinstance(now, list)):
            return False
        path = os.path.join(self.base, place)
        if before[1] != now[1] or _digest(files.read(path)) != before[2]:
            return False
        self.marks[place], self.changed = [self._time(os.stat(path)), now[1], before[2]], True
        return True

    def _mark(self, place: str) -> None:
        if place in self.marks:
            if self._is_sound(place):
                return
            self._moved.add(place)
        state, path = self._state(place), os.path.join(self.base, place)
        if state is not None and not place.startswith(_PINS_OF):
            stat = self._unchanged(path)
            if isinstance(state, list):
                state = [self._time(stat), stat.st_size, _digest(files.read(path))]
        self.marks[place], self._sound[place] = state, True

    def _state(self, place: str) -> object:
        """A file's time and size (with the digest it had, if that still holds), a directory's names, or None for nothing there."""
        if place.startswith(_PINS_OF):
            return _pins(os.path.join(self.base, place.removeprefix(_PINS_OF)))
        path = os.path.join(self.base, place)
        try:
            stat = os.stat(path)
        except (OSError, ValueError):
            return None
        if os.path.isdir(path):
            return _digest("\0".join(sorted(n for n in os.listdir(path) if n.endswith(files.SUFFIXES))).encode())
        before = self.marks.get(place)
        held = before[2] if isinstance(before, list) and before[:2] == [stat.st_mtime_ns, stat.st_size] else None
        return [stat.st_mtime_ns, stat.st_size, held]

    def _pins_of(self, path: str) -> str:
        return _PINS_OF + os.path.dirname(self._name(path))


_PINS_OF = "pins of "


def _pins(directory: str) -> str:
    """What tells whether a file that could pin a version has changed, in a directory or above it."""
    seen: list[str] = []
    parent = os.path.abspath(directory)
    while True:
        directory, parent = parent, os.path.dirname(parent)
        for place in (directory, os.path.join(directory, "requirements")):
            with suppress(OSError), os.scandir(place) as entries:
                for entry in entries:
                    if entry.name in _TOP:
                        seen.append(entry.name)
                    elif _PINS.fullmatch(entry.name):
                        seen.append(_seen(entry.path))
        for copy in chain.from_iterable(files.COPIES.values()):
            with suppress(OSError):
                seen.append(_seen(os.path.join(directory, copy)))
        if parent == directory or not set(_TOP).isdisjoint(seen):
            return _digest("\0".join(sorted(seen)).encode())


def _seen(path: str) -> str:
    stat = os.stat(path)
    return f"{path} {stat.st_mtime_ns} {stat.st_size}"


def _is_entry(entry: Any) -> bool:
    if not (isinstance(entry, list) and len(entry) in (3, 6) and isinstance(entry[0], str)):
        return False
    return len(entry) == 3 or (isinstance(entry[5], list) and all(isinstance(place, str) for place in entry[5]))


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def _write(path: str, text: str) -> None:
    """Replace a file at once, so that another run reads the old one or the new one."""
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _key(settings: Settings, base: str) -> str:
    """What else a report depends on: this program, the interpreter that parses, and what was asked for."""
    asked = (
        None if settings.select is None else sorted(settings.select),
        sorted(settings.ignore),
        sorted((pattern, sorted(codes)) for pattern, codes in settings.per_path_ignores.items()),
        sorted(settings.target_versions.items()),
        settings.root,
        base,
    )
    return _digest(repr((FORMAT, __version__, sys.version_info[:2], asked, *_own_sources())).encode())[:16]


def _own_sources() -> Iterator[str]:
    """The state of this program's own files, where it is installed to be worked on."""
    top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if {"site-packages", "dist-packages"}.isdisjoint(top.split(os.sep)):
        pending = [top]
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    if entry.is_dir() and entry.name != "__pycache__":
                        pending.append(entry.path)
                    elif entry.is_file():
                        stat = entry.stat()
                        yield f"{entry.path} {stat.st_mtime_ns} {stat.st_size}"


