"""The code of one block of a document: what it leaves out with dots, how much of it is Python, and which names it binds."""

from __future__ import annotations

import ast
import re
import warnings

from loradoctor.lint import notebook

# Strings and comments are stepped over; a name or a closing bracket before `(` makes it a call.
_LEXEME = re.compile(r"'''(?s:.*?)'''|\"\"\"(?s:.*?)\"\"\"|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"|#[^\n]*|\.\.\.|\w+|\S")
_DOTS = "..."
_KEYWORDS = frozenset(["and", "assert", "await", "elif", "else", "if", "in", "is", "lambda", "not", "or", "return", "while", "yield"])


def parsed(text: str) -> ast.Module | None:
    """The tree of a text, None when it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a tutorial's strings escape is not this tool's to say
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def code(text: str) -> str:
    """A block as Python: every character keeps its place, and what only IPython or a reader understands is masked.

    The dots of ``LoraConfig(r=8, ...)`` stand for arguments that are not told: they become ``**_``, arguments nobody knows.
    """
    masked = notebook.mask(text)
    if _DOTS in masked and (spots := _left_out(masked)):
        for filler in ("**_", "*_ ", "*_,"):
            starts, ends = [0, *(spot + len(_DOTS) for spot in spots)], [*spots, len(masked)]
            filled = filler.join(masked[start:end] for start, end in zip(starts, ends, strict=True))
            if parsed(filled):
                masked = filled
                break
    # A backslash at the very end would pull in the first line of the next block.
    return re.sub(r"\\(\s*)\Z", r" \1", masked)


def _left_out(text: str) -> list[int]:
    """Where dots stand for arguments of a call."""
    found: list[int] = []
    calls: list[bool] = []
    lexemes = [m for m in _LEXEME.finditer(text) if not m[0].startswith("#")]
    for number, lexeme in enumerate(lexemes):
        before = lexemes[number - 1][0] if number else ""
        if lexeme[0] in "([{":
            calls.append(lexeme[0] == "(" and bool(re.match(r"\w|[)\]]", before)) and before not in _KEYWORDS)
        elif lexeme[0] in ")]}":
            if calls:
                calls.pop()
        elif lexeme[0] == _DOTS and calls and calls[-1] and before in ("(", ","):
            after = lexemes[number + 1][0] if number + 1 < len(lexemes) else ""
            if after in (")", ",") or after.isidentifier():
                found.append(lexeme.start())
    return found


def python_lines(lines: list[str]) -> int:
    """How many of the first lines are Python: a notebook's text goes on with what the code has printed.

    What does not parse is cut off paragraph by paragraph, from the one that holds the error.
    """
    count = len(lines)
    while count:
        text = "\n".join(lines[:count]) + "\n"
        masked = code(text)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(masked)
        except SyntaxError as error:
            wrong = min(max(error.lineno or count, 1), count)
            count = _paragraph(lines, wrong)
            continue
        except (ValueError, RecursionError, MemoryError):
            return 0
        break
    while count and not lines[count - 1].strip():
        count -= 1
    return count


def _paragraph(lines: list[str], wrong: int) -> int:
    """How many lines there are before the paragraph of line ``wrong`` (from 1), or before that line in the first one."""
    blank = next((at for at in range(wrong - 1, 0, -1) if not lines[at - 1].strip()), None)
    return wrong - 1 if blank is None else blank - 1


def bound(text: str) -> list[str]:
    """The variables that the top level of a block assigns; arguments of calls and the insides of functions are not."""
    tree = parsed(code(text))
    if tree is None:
        return sorted(set(re.findall(r"^([A-Za-z_]\w*)[ \t]*=(?!=)", text, re.MULTILINE)))
    names: set[str] = set()
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.comprehension):
            pending += ast.iter_child_nodes(node)
    return sorted(names)
