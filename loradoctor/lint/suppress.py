"""`# loradoctor: ignore[CODE]` comments: what they silence, and which of them silence nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from loradoctor.diagnostic import Diagnostic, Finding, Location
from loradoctor.engine import stamp
from loradoctor.lint.source import Source
from loradoctor.self_report import unused_suppression

# Strings first, so that what looks like a comment inside one is passed over.
STRING_OR_COMMENT = re.compile(
    r"""\"{3}(?:[^\\]|\\.)*?\"{3} | '{3}(?:[^\\]|\\.)*?'{3} | "(?:[^"\\\r\n]|\\.)*" | '(?:[^'\\\r\n]|\\.)*' | \#[^\r\n]*""",
    re.DOTALL | re.VERBOSE,
)
_MARK = re.compile(r"#\s*loradoctor\s*:\s*(ignore-file|ignore)\b\s*(\[[^\]]*\]?)?")


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Every comment of a Python text with its offset; a ``#`` in a string is none."""
    for found in STRING_OR_COMMENT.finditer(text):
        if found[0].startswith("#"):
            yield found.start(), found[0]


@dataclass(slots=True)
class Suppression:
    """One code or name in the brackets of one comment; ``location`` is its own."""

    name: str
    whole_file: bool
    location: Location
    used: bool = False
    aliases: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.aliases = (self.name.upper(), self.name.lower().replace("_", "-"))

    def silences(self, found: Diagnostic) -> bool:
        """Whether ``found`` is what this suppression was written for, and on its line."""
        if self.aliases[0] != found.code and self.aliases[1] != found.name:
            return False
        here, there = self.location.span, found.location.span
        if self.whole_file or here is None or there is None:
            return self.whole_file
        return self.location.cell == found.location.cell and there.line <= here.line <= there.end_line


def read(source: Source) -> tuple[list[Suppression], list[Finding]]:
    """The suppressions of a file, and the comments that were meant to be some and are not."""
    suppressions: list[Suppression] = []
    malformed: list[Finding] = []
    if "loradoctor" not in source.text:
        return suppressions, malformed
    for offset, comment in comments(source.text):
        for mark in _MARK.finditer(comment):
            codes = mark[2] or ""
            names = list(re.finditer(r"[^\s,\[\]]+", codes))
            if not names or not codes.endswith("]"):
                place = source.location(offset + mark.start(), offset + mark.end())
                malformed.append(_malformed(mark[1], place))
                continue
            for name in names:
                start = offset + mark.start(2) + name.start()
                place = source.location(start, start + len(name[0]))
                suppressions.append(Suppression(name[0], mark[1] == "ignore-file", place))
    return suppressions, malformed


def _malformed(word: str, place: Location) -> Finding:
    return Finding(
        f"`{word}` names no code",
        place,
        help=f"nothing is silenced. Name what is meant: `# loradoctor: {word}[LD101]`, several with commas",
        data={"cause": "no-code"},
    )


def apply(source: Source, found: Iterable[Diagnostic], enabled: Callable[[str], bool]) -> tuple[list[Diagnostic], int]:
    """What is left of ``found``, with an LD003 for every suppression that silences nothing, and how many were silenced.

    ``enabled`` says which codes this run looked for: a suppression of another one may be of use in another run.
    """
    suppressions, malformed = read(source)
    kept = list(found)
    before = len(kept)
    named: dict[str, list[Suppression]] = {}
    for suppression in suppressions:
        for alias in suppression.aliases:
            named.setdefault(alias, []).append(suppression)
    kept = [d for d in kept if not _silenced(d, named)]
    silenced = before - len(kept)
    if enabled(unused_suppression.code):
        unused = [*malformed, *(_unused(s) for s in suppressions if not s.used and _looked_for(s, enabled))]
        stamped = [stamp(unused_suppression, finding, source.path) for finding in unused]
        reported = [d for d in stamped if not _silenced(d, named)]
        silenced += len(stamped) - len(reported)
        kept += reported
    return kept, silenced


def _silenced(found: Diagnostic, named: Mapping[str, list[Suppression]]) -> bool:
    used = [s for alias in (found.code, found.name) for s in named.get(alias, ()) if s.silences(found)]
    for suppression in used:
        suppression.used = True
    return bool(used)


def _looked_for(suppression: Suppression, enabled: Callable[[str], bool]) -> bool:
    code = _code(suppression)
    return code is None or (enabled(code) and code != unused_suppression.code)


def _code(suppression: Suppression) -> str | None:
    from loradoctor import registry

    try:
        return registry.find(suppression.name).code
    except registry.UnknownRule:
        return None


def _unused(suppression: Suppression) -> Finding:
    if _code(suppression) is None:
        return Finding(
            f"no rule is called `{suppression.name}`",
            suppression.location,
            help="nothing is silenced. `loradoctor rules` lists every code and name",
            data={"cause": "unknown-code", "code": suppression.name},
        )
    where = "file" if suppression.whole_file else "line"
    return Finding(
        f"there is no `{suppression.name}` on this {where} to ignore",
        suppression.location,
        help="remove it from the comment, so that it does not hide the next bug here",
        data={"cause": "unused", "code": suppression.name},
    )
