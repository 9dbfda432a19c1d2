"""Code nested so deeply that the parser's stack would overflow, which ends the process and cannot be caught."""

from __future__ import annotations

import re

# CPython itself refuses more than 200 brackets inside one another, and compiles no chain of operators near this long.
MAX_BRACKETS = 200
MAX_OPERATORS = 3000

_LEXEME = re.compile(
    r"""\"{3}(?:[^\\]|\\.)*?\"{3} | '{3}(?:[^\\]|\\.)*?'{3} | "(?:[^"\\\r\n]|\\.)*" | '(?:[^'\\\r\n]|\\.)*' | \#[^\r\n]*
    | [()\[\]{},;\n] | \*\* | // | [-+*/%&|^~@.<>] | \b(?:not|and|or|await|if|lambda|yield|elif)\b""",
    re.DOTALL | re.VERBOSE,
)
_OPERATORS = (*"-+*/%&|^~@.<>([", "not", "and", "or", "if", "lambda", "await", "yield")
_BRACKET = re.compile(r"[()\[\]{}]")


def too_deep(text: str) -> int | None:
    """The line, from 1, where an expression becomes nested more deeply than any program is; None when none does."""
    if not _suspicious(text):
        return None
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
        if depth > MAX_BRACKETS or operators[-1] > MAX_OPERATORS or branches > MAX_OPERATORS:
            return text.count("\n", 0, found.start()) + 1
    return None


def _suspicious(text: str) -> bool:
    # Nearly every file ends here, for a hundredth of what its parse costs. Brackets in strings are counted too.
    if sum(map(text.count, _OPERATORS)) > MAX_OPERATORS:
        return True
    depth = deepest = 0
    for bracket in _BRACKET.findall(text):
        depth += 1 if bracket in "([{" else -1
        deepest = max(deepest, depth)
    return deepest > MAX_BRACKETS
