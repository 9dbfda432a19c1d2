"""Code nested so deeply that the parser's stack would overflow, which ends the process and cannot be caught."""

from __future__ import annotations

import re
from collections.abc import Iterator

# CPython itself refuses more than 200 brackets inside one another, and compiles no chain of operators near this long.
MAX_BRACKETS = 200
MAX_OPERATORS = 3000

_LEXEME = re.compile(
    r"""\"{3}(?:[^\\]|\\.)*?\"{3} | '{3}(?:[^\\]|\\.)*?'{3} | "(?:[^"\\\r\n]|\\.)*" | '(?:[^'\\\r\n]|\\.)*' | \#[^\r\n]*
    | [()\[\]{},;\n] | \*\* | // | [-+*/%&|^~@.<>] | \b(?:not|and|or|await|if|for|lambda|yield|elif)\b""",
    re.DOTALL | re.VERBOSE,
)
_OPERATORS = (*"-+*/%&|^~@.<>([", "not", "and", "or", "if", "for", "lambda", "await", "yield")
_NEWLINE = re.compile(r"\r\n|\r|\n")
_BRACKET = re.compile(r"[()\[\]{}]")


def too_deep(text: str) -> int | None:
    """The line, from 1, where an expression becomes nested more deeply than any program is; None when none does."""
    if not _suspicious(text):
        return None
    for offset, brackets, operators, branches in _nesting(text):
        if brackets > MAX_BRACKETS or operators > MAX_OPERATORS or branches > MAX_OPERATORS:
            return _line(text, offset)
    return None


def deepest(text: str) -> int:
    """The line, from 1, of the expression that is nested most deeply."""
    return _line(text, max(_nesting(text), key=lambda found: found[1] + found[2] + found[3], default=(0, 0, 0, 0))[0])


def _nesting(text: str) -> Iterator[tuple[int, int, int, int]]:
    """For every lexeme that nests: its offset, the brackets it stands in, the operators before it in its expression, the branches."""
    depth, operators = 0, [0]
    branches = 0
    for found in _LEXEME.finditer(text):
        lexeme = found[0]
        if lexeme in "([{":
            # What is subscripted or called nests too: every bracket adds to the chain that it continues.
            operators[-1] += 1
            operators.append(0)
            depth += 1
        elif lexeme in ")]}":
            depth = max(0, depth - 1)
            operators = operators[:-1] if len(operators) > 1 else [0]
        elif lexeme in ",;" or (lexeme == "\n" and not depth):
            operators[-1] = 0
        elif lexeme == "elif":
            branches += 1
        elif lexeme[0] not in "\"'#\n":
            operators[-1] += 1
        yield found.start(), depth, operators[-1], branches


def _line(text: str, offset: int) -> int:
    return len(_NEWLINE.findall(text, 0, offset)) + 1


def _suspicious(text: str) -> bool:
    # Nearly every file ends here, for a hundredth of what its parse costs. Brackets in strings are counted too.
    if sum(map(text.count, _OPERATORS)) > MAX_OPERATORS:
        return True
    depth = deepest = 0
    for bracket in _BRACKET.findall(text):
        depth += 1 if bracket in "([{" else -1
        deepest = max(deepest, depth)
    return deepest > MAX_BRACKETS
