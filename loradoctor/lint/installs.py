"""What a file installs by itself: ``!pip install peft==0.4.0`` in a notebook, the commands of a document, a script's metadata."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loradoctor.lint.source import Source

# Options and quotes may stand between the words: `"pip", "install"` is what `subprocess` is given.
_GAP = r"[\"',\s]+(?:-{1,2}[\w-]+[\"',\s]+)*"
_COMMAND = re.compile(
    rf"\b(?:pip3?(?:\.main\(\[?)?|uv|conda|mamba|micromamba|poetry|pixi|pdm)(?P<gap>{_GAP}|[\"'])(?:pip{_GAP})?(?:install|add)\b(?P<rest>[^\n]*)"
)
_CONTINUED = re.compile(r"\\[ \t]*\r?\n[ \t>]*")
_END = re.compile(r"\s(?:&&|\|\|?|;|#|[12&]?>)|[;`]")
_TOKEN = re.compile(r"\"([^\"\n]*)\"|'([^'\n]*)'|([^\s\"'(),\\]+(?:,[<>=!~][^\s\"'(),]+)*)")
_PLAIN = re.compile(r"(?:\s*\d+[.)])?[^\w#]*(?:(?:sudo|RUN|python3?(?:\.\d+)?|-m|py)\s+)*$")
_SPOKEN = re.compile(r"#(?! MAGIC)|\bprint\b|\braise\b|Error|Exception|\bwarn")
_LINE = re.compile(r"^[ \t>]*(?:[-*][ \t]+)?`?([A-Za-z0-9_.-]+(?:\[[\w,]*\])?[ \t]*==[ \t]*[0-9][^\s`]*)`?[ \t]*(?:#.*)?\r?$", re.MULTILINE)
_QUOTED = re.compile(r"\"([^\"\n]+)\"|'([^'\n]+)'")
_CALLED = re.compile(r"\(|# MAGIC")
_SCRIPT = re.compile(r"^# /// script[ \t]*\r?\n((?:#[^\n]*\n)*?)# ///[ \t]*\r?$", re.MULTILINE)
_REPOSITORY = re.compile(
    r"(?:git\+\w+://(?:git@)?|https?://)[^\s@]*?/([A-Za-z0-9_.-]+?)(?:\.git)?(?:/archive/\S*?)?"
    r"(?:@([^#\s]+)|/(v?[0-9][^/#\s]*)\.(?:zip|tar\.gz))?(?:#\S*)?$"
)
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_TAG = re.compile(r"v?\d+(?:\.\d+)+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_CONDA = re.compile(r"([A-Za-z0-9_.-]+)=(?=[0-9])([0-9.]+)")


@dataclass(slots=True)
class Installs:
    """What a file says of versions, the last word for each name: clauses as in ``==0.4.0``, or ``newest``.

    ``floors`` are the clauses, perhaps none, of what it installs without an upper bound; ``files`` are the requirements files
    it installs from, as it names them.
    """

    requirements: dict[str, str] = field(default_factory=dict)
    floors: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)


NEWEST = "newest"
SOME = "==0"
"""The clauses of a requirement for a commit: it is taken for older than any release, and nothing is said of what it lacks yet."""


def of_source(source: Source) -> Installs:
    """The installs that a file itself makes or tells of."""
    if source.kind == "notebook":
        return of_cells([cell.source for cell in source.cells])
    if source.kind == "markdown":
        return of_document(source.data.decode(source.encoding, "replace"))
    return of_script(source.text)


def of_script(text: str) -> Installs:
    """The installs of a Python file: commands that it runs, and its inline metadata."""
    if "install" not in text and "# /// script" not in text:
        return Installs()
    stated = [one or other for block in _SCRIPT.findall(text) for one, other in _QUOTED.findall(block)]
    return _read(text, stated, lambda prefix: not _SPOKEN.search(prefix) and bool(_CALLED.search(prefix)))


def of_cells(sources: list[str]) -> Installs:
    """The installs of a notebook's code cells, in their order."""
    text = "\n".join(sources)
    if "==" not in text and "install" not in text:
        return Installs()
    return _read(text, _LINE.findall(text), lambda prefix: not _SPOKEN.search(prefix))


def of_document(text: str) -> Installs:
    """The installs that a document tells its reader to run: commands and requirements that stand on lines of their own."""
    return _read(text, _LINE.findall(text), lambda prefix: bool(_PLAIN.match(prefix)))


def requirement(text: str) -> tuple[str, str] | None:
    """``(name, clauses)`` of one requirement; the clauses are empty where it has none, :data:`NEWEST` for a repository's head."""
    text = text.strip().strip("\"'")
    name, _, address = text.partition("@")
    if "git+" in text or "://" in text:
        direct = _REPOSITORY.match(address.strip() if _NAME.fullmatch(name.strip()) and "/" in address else text)
        if direct is None:
            return None
        tag = _TAG.match((direct[2] or direct[3] or "").rpartition("/")[2])
        commit = _COMMIT.fullmatch(direct[2] or "")  # of an age that its name does not tell
        return direct[1], f"=={tag[0].lstrip('v')}" if tag else SOME if commit else NEWEST
    if conda := _CONDA.match(text):
        fuzzy = conda[2].count(".") < 2 and "=" not in text[conda.end() :]
        return conda[1], f"=={conda[2].rstrip('.')}" + (".*" if fuzzy else "")
    found = _NAME.match(text)
    if found is None:
        return None
    clauses = re.sub(r"^\s*\[[^\]]*\]", "", text[found.end() :]).partition(";")[0].strip()
    return (found[0], clauses) if not clauses or clauses[0] in "=<>~!" else None


def _read(text: str, stated: list[str], runs: Callable[[str], bool]) -> Installs:
    """What is stated as such and what commands install; ``runs`` tells a command from talk of one by what stands before it."""
    found = Installs()
    for line in stated:
        _take(found, line, upgrade=False)
    joined = _CONTINUED.sub(" ", text)
    for command in _COMMAND.finditer(joined):
        start = joined.rfind("\n", 0, command.start()) + 1
        if not runs(joined[start : command.start()]):
            continue
        rest = command["rest"]
        if command["gap"][:1] in "\"'" and "]" not in rest:  # a list of arguments goes on to its bracket
            rest = joined[command.start("rest") :].partition("]")[0]
        elif end := _END.search(rest):
            rest = rest[: end.start()]
        _arguments(found, list(_tokens(rest)))
    return found


def _tokens(text: str) -> Iterator[str]:
    for double, single, bare in _TOKEN.findall(text):
        yield double or single or bare


def _arguments(found: Installs, tokens: list[str]) -> None:
    upgrade = any(t == "--upgrade" or re.fullmatch(r"-\w*U\w*", t) for t in tokens)
    for before, token in zip(["", *tokens], tokens, strict=False):
        if before in ("-r", "--requirement"):
            found.files.append(token)
        elif not token.startswith("-"):
            _take(found, token, upgrade=upgrade)


def _take(found: Installs, text: str, *, upgrade: bool) -> None:
    named = requirement(text)
    if named is None:
        return
    name, clauses = re.sub(r"[-_.]+", "-", named[0]).lower(), named[1]
    bounded = re.search(r"(?:==|<|~=)=?\s*\d", clauses)
    if bounded or clauses == NEWEST:
        found.requirements[name] = clauses
        found.floors.pop(name, None)
    elif upgrade:
        found.requirements[name] = NEWEST
    else:
        found.floors[name] = clauses
