"""Small rules over the text itself, to test what surrounds the analysis without it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loradoctor.config import Settings
from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint.lower import parse
from loradoctor.lint.pipeline import Pipeline
from loradoctor.lint.source import Source
from loradoctor.rule import Rule, rule


def analysed(source: Source) -> Source:
    """A stand-in for the module: the source, once it has been seen to parse."""
    parse(source.text)
    return source


def replacing(code: str, pattern: str, by: str, *, safe: bool = True) -> Rule[Source]:
    """A rule that finds a pattern, with the fix that replaces it."""

    @rule(code, Severity.ERROR, name=f"rule-{code.lower()}")
    def found(source: Source) -> Iterator[Finding]:
        """Find it."""
        for match in re.finditer(pattern, source.text):
            edit = source.edit(match.start(), match.end(), match.expand(by))
            yield Finding(f"found {match[0]}", source.location(*match.span()), fix=Fix("replace it", (edit,), safe))

    return found


def pipeline(*rules: Rule[Source], settings: Settings | None = None) -> Pipeline:
    """A pipeline with these rules alone."""
    return Pipeline(settings or Settings(), analysed, rules)
