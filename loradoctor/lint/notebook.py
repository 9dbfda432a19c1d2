"""Jupyter notebooks: their code cells as Python, and their JSON rewritten in place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

# Cell magics whose body is the Python that runs; the body of any other belongs to another program.
_TRANSPARENT = frozenset(["capture", "debug", "lprun", "memit", "mprun", "prun", "scalene", "snakeviz", "time", "timeit", "wandb"])
_TIMED = re.compile(r"%(?:time|timeit|prun|memit)[ \t]+(?:-[nrcptqos]+[ \t]*\w*[ \t]+)*")
_MAGIC_LINE = re.compile(r"[ \t]*(?:%%?[A-Za-z_]|!|\?|/[A-Za-z_]\w*[ \t])")
_HELP_LINE = re.compile(r"[ \t]*%{0,2}[A-Za-z_*][\w.*\[\]]*\?{1,2}[ \t]*(?:#.*)?$")
# What a shell user types into a notebook: IPython runs it when no variable has that name.
_AUTOMAGIC = re.compile(
    r"(?:apt|apt-get|cat|cd|conda|cp|git|head|ls|mamba|mkdir|mv|nvidia-smi|pip|pip3|pwd|rm|rmdir|tail|uv|wget)"
    r"(?:[ \t]+(?![=(.,:\[+*/|&<>%]|(?:in|is|and|or|if|not|for)\b)\S|[ \t]*$)"
)
# In a cell of one line IPython asks for no more than the name, so that `cd /kaggle/working` changes the directory.
_AUTOMAGIC_ALONE = re.compile(
    r"(?:autoreload|cat|cd|conda|cp|env|less|ll|load_ext|ls|mamba|man|matplotlib|mkdir|more|mv|pip|pwd|rm|rmdir|run|set_env|uv|whos?)"
    r"(?:[ \t]+(?![=,(:\[]|[-+*/|&<>%]=?[ \t]|(?:in|is|and|or|if|not|for)\b)\S|[ \t]*$)"
)
# Ends the process, as a rule to load what has just been installed; the cells after it run in the next one.
_RESTART = re.compile(r"(?:exit|quit|sys\.exit|os\._exit)\([\w. ]*\)[ \t]*;?[ \t]*(?:#.*)?$")
_CAPTURED = re.compile(r"(?<![=!<>:])=[ \t]*(![^=]|%[A-Za-z_])")
_COMPOUND = re.compile(r"(?:async|class|def|for|if|try|while|with)\b|@")
_SUSPECT = re.compile(
    rf"^[ \t]*[%!?/]|\?[ \t]*(?:#.*)?\r?$|=[ \t]*[%!]|^{_AUTOMAGIC.pattern}|^(?:exit|quit|sys\.exit|os\._exit)\(", re.MULTILINE
)
# Everything that can hide or open a bracket; the order matters: triple quotes before single ones.
_LEXEME = re.compile(r"'''|\"\"\"|'|\"|#|[()\[\]{}]|\\")


_SECOND_TIME = "modify a model with PEFT for a second time"
_NESTED = re.compile(r"\(base_model\): \w+\(\s*\((?:base_)?model\): PeftModel")


class NotebookError(ValueError):
    """A file that is not a notebook: what is wrong, and where in the file."""

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class CodeCell:
    """A code cell: its place among all cells, its source, its number in the last run or None, and how that run ended.

    ``failed`` in an exception, ``rewrapped`` with output that shows a model which PEFT has wrapped twice.
    """

    index: int
    source: str
    execution_count: int | None
    failed: bool
    rewrapped: bool = False


def code_cells(data: bytes) -> tuple[CodeCell, ...]:
    """The Python cells of a notebook, none when its kernel is not a Python; an editor may mark single cells. Raises :class:`NotebookError`."""
    try:
        notebook = json.loads(data)
    except json.JSONDecodeError as error:
        what = "the file is empty" if not data.strip() else f"it is not JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        raise NotebookError(what, error.lineno, error.colno) from None
    except RecursionError:
        raise NotebookError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise NotebookError("it is not JSON: the bytes are not UTF-8", data.count(b"\n", 0, error.start) + 1) from None
    if not isinstance(notebook, dict) or not isinstance(_cells(notebook), list):
        raise NotebookError("it is JSON, but not a notebook: there is no list of `cells`")
    if not _is_python(notebook.get("metadata")):
        return ()
    found = []
    for index, cell in enumerate(_cells(notebook)):
        if not isinstance(cell, dict) or cell.get("cell_type") != "code" or not _is_python(cell.get("metadata")):
            continue
        source = cell.get("source", cell.get("input", ""))
        if isinstance(source, list):
            source = "".join(line for line in source if isinstance(line, str))
        count = cell.get("execution_count", cell.get("prompt_number"))
        text, number = source if isinstance(source, str) else "", count if isinstance(count, int) else None
        found.append(CodeCell(index, text, number, _failed(cell.get("outputs")), _rewrapped(cell.get("outputs"))))
    return tuple(found)


def _cells(notebook: dict[str, object]) -> list[object]:
    # Notebooks of format 3 keep their cells in worksheets; nobody has ever written more than one.
    holder: object = notebook
    if "cells" not in notebook:
        worksheets = notebook.get("worksheets")
        holder = worksheets[0] if isinstance(worksheets, list) and worksheets else None
    return holder.get("cells") if isinstance(holder, dict) else None  # type: ignore[return-value]


def _failed(outputs: object) -> bool:
    """Whether the stored output of a cell ends in an exception."""
    return isinstance(outputs, list) and any(isinstance(o, dict) and o.get("output_type") in ("error", "pyerr") for o in outputs)


def _rewrapped(outputs: object) -> bool:
    """Whether the stored output of a cell shows a second `get_peft_model`: PEFT's words for it, or a PEFT model in another."""
    for output in outputs if isinstance(outputs, list) else []:
        if isinstance(output, dict):
            data = output.get("data")
            text = output.get("text") if output.get("output_type") == "stream" else data.get("text/plain") if isinstance(data, dict) else ""
            printed = "".join(line for line in text if isinstance(line, str)) if isinstance(text, list) else str(text)
            if _SECOND_TIME in printed or _NESTED.search(printed):
                return True
    return False


def _is_python(metadata: object) -> bool:
    if not isinstance(metadata, dict):
        return True
    for table, key in (("language_info", "name"), ("kernelspec", "language"), ("vscode", "languageId")):
        entry = metadata.get(table)
        if isinstance(entry, dict) and isinstance(entry.get(key), str):
            return entry[key].lower() in ("python", "python3", "ipython", "ipython3", "")
    return True


def mask(source: str) -> str:
    """A cell as Python: every character keeps its place, and what only IPython understands is blanked out.

    ``%time f(x)`` keeps ``f(x)``; ``files = !ls`` keeps the assignment, of a name that is never bound.
    """
    if "\n" not in source.strip() and _AUTOMAGIC_ALONE.match(source.strip()):
        return re.sub(r"\S.*\S|\S", lambda line: _mask_magic(line[0]), source)
    if not _SUSPECT.search(source):
        return source
    if (magic := re.match(r"(?:[ \t]*(?:#[^\n]*)?\r?\n)*[ \t]*%%([A-Za-z_]\w*)", source)) and magic[1] not in _TRANSPARENT:
        return re.sub(r"[^\r\n]", " ", source)
    out, quote, depth, continued, shell = [], "", 0, False, False
    for line in re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", source):
        body = line.rstrip("\r\n")
        starts = not quote and not depth and not continued
        if shell or (starts and _is_magic(body)):
            masked = " " * len(body) if shell else _mask_magic(body)
            shell = body.endswith("\\")
        else:
            masked = _mask_captured(body) if starts and "=" in body else body
            quote, depth, continued = _advance(masked, quote, depth)
        out.append(masked + line[len(body) :])
    return "".join(out)


def _is_magic(line: str) -> bool:
    return bool(_MAGIC_LINE.match(line) or _AUTOMAGIC.match(line) or _RESTART.match(line) or ("?" in line and _HELP_LINE.match(line)))


def _mask_magic(line: str) -> str:
    """The line as a constant expression, or as the statement that a timing magic runs."""
    body = line.lstrip(" \t")
    indent = line[: len(line) - len(body)]
    if body.startswith("%%"):
        return " " * len(line)
    if (timed := _TIMED.match(body)) and (rest := body[timed.end() :]) and not _COMPOUND.match(rest):
        return indent + "0;".ljust(timed.end()) + rest
    return indent + "0".ljust(len(body))


def _mask_captured(line: str) -> str:
    captured = _CAPTURED.search(line)
    if not captured or any(mark in line[: captured.start()] for mark in "'\"#("):
        return line
    return line[: captured.start(1)] + "_".ljust(len(line) - captured.start(1))


def _advance(line: str, quote: str, depth: int) -> tuple[str, int, bool]:
    """What is open after ``line``: the quotes, the number of brackets, and whether a backslash continues it."""
    at = 0
    while found := _LEXEME.search(line, at):
        lexeme, at = found[0], found.end()
        if lexeme == "\\":
            if not quote and at == len(line):
                return quote, depth, True
            at += 1
        elif quote:
            if lexeme == quote:
                quote = ""
            elif lexeme.startswith(quote):  # the first of three quotes ends a string in single ones
                quote, at = "", found.start() + 1
            elif len(quote) == 3 and lexeme[0] == quote[0]:
                at = found.start() + 1
        elif lexeme == "#":
            break
        elif lexeme in "([{":
            depth += 1
        elif lexeme in ")]}":
            depth = max(0, depth - 1)
        else:
            quote = lexeme
    # A string in single quotes ends with its line, whatever it looks like; only a backslash carries it on.
    return (quote if len(quote) == 3 or line.endswith("\\") else ""), depth, False


def replace_sources(data: bytes, sources: Mapping[int, str]) -> bytes:
    """The notebook with other sources for some cells (by index); every byte that need not change stays.

    Only the JSON string literals of changed lines are written anew, so a diff shows those lines and nothing else.
    """
    encoding = json.detect_encoding(data)
    text = data.decode(encoding, "surrogatepass")
    escape = text.isascii() and "\\u" in text
    out, done = [], 0
    for index, start, end in _source_values(text):
        if index in sources:
            out += [text[done:start], _rewrite(text[start:end], sources[index], escape)]
            done = end
    return ("".join(out) + text[done:]).encode(encoding, "surrogatepass")


_blank = re.compile(r"[ \t\n\r]*").match
_decoder = json.JSONDecoder(strict=False)


def _skip(text: str, at: int) -> int:
    found = _blank(text, at)
    return found.end() if found else at


def _members(text: str, at: int) -> Iterator[tuple[object, int, int]]:
    """Key or index, start and end of every value of the object or array that starts at ``at``."""
    keyed, count = text[at] == "{", 0
    at = _skip(text, at + 1)
    while text[at] not in "]}":
        key: object = count
        if keyed:
            key, at = _decoder.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)
        _, end = _decoder.raw_decode(text, at)
        yield key, at, end
        count += 1
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _source_values(text: str) -> Iterator[tuple[int, int, int]]:
    at = _skip(text, 0)
    top = {key: start for key, start, _ in _members(text, at)}
    if "cells" not in top:
        sheet = next(start for _, start, _ in _members(text, top["worksheets"]))
        top = {key: start for key, start, _ in _members(text, sheet)}
    for index, cell, _ in _members(text, top["cells"]):
        for key, start, end in _members(text, cell):
            if key in ("source", "input") and isinstance(index, int):
                yield index, start, end


def file_line(data: bytes, cell: int, line: int) -> int | None:
    """The line of the file, from 1, that holds line ``line`` (from 1) of a cell's source; None when the cell has no such line.

    Raises what reading broken JSON raises: ``ValueError``, ``KeyError``, ``IndexError`` or ``RecursionError``.
    """
    text = data.decode(json.detect_encoding(data), "surrogatepass")
    for index, start, end in _source_values(text):
        if index != cell:
            continue
        reached, pieces = 1, _members(text, start) if text[start] == "[" else [(0, start, end)]
        for _, begin, finish in pieces:
            piece = _decoder.decode(text[begin:finish])
            reached += piece.count("\n")
            if line < reached or (line == reached and piece and not piece.endswith("\n")):
                return text.count("\n", 0, begin) + 1
    return None


def _rewrite(old: str, source: str, escape: bool) -> str:
    """The JSON value of a cell's source, with the literals of unchanged lines as they were."""
    if old[0] != "[":
        return json.dumps(source, ensure_ascii=escape)
    spans = [(start, end) for _, start, end in _members(old, 0)]
    if not spans:
        return json.dumps(source.splitlines(keepends=True), ensure_ascii=escape)
    lead, tail = old[1 : spans[0][0]], old[spans[-1][1] : -1]
    between = [old[a[1] : b[0]] for a, b in pairwise(spans)]
    literals = [old[start:end] for start, end in spans]
    lines = re.findall(r"[^\n]*\n|[^\n]+", source)
    new = _align(literals, [json.loads(one, strict=False) for one in literals], lines, escape)
    if len(new) != len(literals):
        between = [between[0] if between else f",{lead}"] * (len(new) - 1)
    if not new:
        return "[]"
    return f"[{lead}" + "".join(part for pair in zip(new, [*between, ""], strict=True) for part in pair) + f"{tail}]"


def _align(literals: list[str], old: list[str], new: list[str], escape: bool) -> list[str]:
    from difflib import SequenceMatcher

    aligned: list[str] = []
    for tag, start, end, first, last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        kept = tag == "equal"
        aligned += literals[start:end] if kept else [json.dumps(line, ensure_ascii=escape) for line in new[first:last]]
    return aligned
