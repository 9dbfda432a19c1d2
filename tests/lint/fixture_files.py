"""What the fixtures promise, read from their marks."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from loradoctor.config import Settings
from loradoctor.diagnostic import Diagnostic
from loradoctor.lint.pipeline import Pipeline

FIXTURES = Path(__file__).parents[2] / "fixtures" / "lint"
_MARK = re.compile(r"#\s*expect:\s*(.+?)\s*$")
_CODE = re.compile(r"(LD\d{3})(?: (error|warning|info))?")

Place = tuple[int | None, int]
Expected = tuple[int | None, int, str, str]


def subjects() -> list[Path]:
    """The fixtures to lint: what a fix should make of them is not among them."""
    return sorted(p for p in FIXTURES.iterdir() if p.suffix in (".py", ".ipynb") and len(p.suffixes) == 1)


def expected(path: Path, severities: dict[str, str]) -> Counter[Expected]:
    """Cell, line, code and severity of every finding that the file is marked with."""
    found: Counter[Expected] = Counter()
    for (cell, line), text in _lines(path):
        if mark := _MARK.search(text):
            for part in mark[1].split(","):
                code = _CODE.fullmatch(part.strip())
                assert code, f"{path.name}:{line}: cannot read the mark {part!r}"
                found[cell, line, code[1], code[2] or severities[code[1]]] += 1
    return found


def reported(found: tuple[Diagnostic, ...]) -> Counter[Expected]:
    """The same facts of what was found."""
    return Counter((d.location.cell, d.location.span.line if d.location.span else 0, d.code, d.severity.value) for d in found)


def lint_bytes(path: Path, data: bytes | None = None) -> tuple[Diagnostic, ...]:
    """What lint says of a fixture, or of other bytes in its place."""
    return Pipeline(Settings()).examine(str(path), path.read_bytes() if data is None else data).diagnostics


def _lines(path: Path) -> Iterator[tuple[Place, str]]:
    if path.suffix == ".py":
        for number, text in enumerate(path.read_text().splitlines(), 1):
            yield (None, number), text
        return
    for index, cell in enumerate(json.loads(path.read_bytes())["cells"]):
        if cell["cell_type"] == "code":
            for number, text in enumerate("".join(cell["source"]).splitlines(), 1):
                yield (index, number), text
