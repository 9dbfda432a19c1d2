"""Regular expressions out of a config: whoever wrote it decides how long they take, and some would take for ever."""

from __future__ import annotations

import re
from functools import lru_cache

from loradoctor.limit import processor_time

SECONDS = 0.5
"""For one name. An expression that PEFT can use takes microseconds, and PEFT has no limit: there it hangs."""

_slow: set[str] = set()


class TooSlowError(re.error):
    """Matching does not come to an end in :data:`SECONDS`."""


def fullmatch(pattern: str, text: str) -> re.Match[str] | None:
    """As ``re.fullmatch``; raises ``re.error``, and :class:`TooSlowError` where that would not return."""
    return _bounded(pattern, text, re.Pattern.fullmatch)


def match(pattern: str, text: str) -> re.Match[str] | None:
    """As ``re.match``; raises as :func:`fullmatch` does."""
    return _bounded(pattern, text, re.Pattern.match)


def search(pattern: str, text: str) -> re.Match[str] | None:
    """As ``re.search``; raises as :func:`fullmatch` does."""
    return _bounded(pattern, text, re.Pattern.search)


def _bounded(pattern: str, text: str, how: object) -> re.Match[str] | None:
    if pattern in _slow:
        raise TooSlowError("matching it does not come to an end")
    compiled = _compile(pattern)
    if not _can_be_slow(pattern):
        return how(compiled, text)  # type: ignore[no-any-return, operator]
    try:
        with processor_time(SECONDS):
            return how(compiled, text)  # type: ignore[no-any-return, operator]
    except TimeoutError:
        _slow.add(pattern)
        raise TooSlowError("matching it does not come to an end") from None


@lru_cache(maxsize=1024)
def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (RecursionError, OverflowError) as error:
        raise re.error(str(error)) from None


def _can_be_slow(pattern: str) -> bool:
    """Whether it repeats more than one thing without a bound; with one, the time grows with the square of a name at most."""
    return sum(map(pattern.count, "*+{")) > 1
