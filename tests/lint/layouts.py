"""The same program written in every way people write it: what a fix must leave as it found it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Style = Callable[[str, Sequence[str], str], str]


def relaid(program: str, style: Style) -> str:
    """The program with every call written in this style: given what is called, its arguments, and the line's indentation."""
    calls = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
    starts = [0]
    for line in program.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def span(node: ast.expr | ast.keyword) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def written(start: int, end: int) -> str:
        # The outer one of two calls that start at the same place comes first.
        inside = sorted((c for c in calls if start <= span(c)[0] and span(c)[1] <= end), key=lambda c: (span(c)[0], -span(c)[1]))
        out, done = [], start
        for call in inside:
            first, last = span(call)
            if first < done:
                continue
            given: list[ast.expr | ast.keyword] = [*call.args, *call.keywords]
            arguments = [written(*span(a)) for a in sorted(given, key=span)]
            out += [program[done:first], style(written(*span(call.func)), arguments, _indent(program, first))]
            done = last
        return "".join(out) + program[done:end]

    return written(0, len(program))


def _indent(text: str, offset: int) -> str:
    line = text[text.rfind("\n", 0, offset) + 1 :]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _deeper(text: str, by: str = "    ") -> str:
    return text.replace("\n", f"\n{by}")


def _hugged(after: str = "", last: str = "", opening: str = "", closing: str = "", step: str = "    ") -> Style:
    """One argument a line: what stands behind each and its comma, behind the last, behind the bracket and before the closing one."""

    def style(func: str, arguments: Sequence[str], indent: str) -> str:
        lines = [f"{indent}{step}{_deeper(a, step)}" for a in arguments]
        body = [f"{line},{after}" for line in lines[:-1]] + [f"{line}{last}" for line in lines[-1:]]
        return "\n".join([f"{func}({opening}", *body, f"{closing.format(indent=indent)}{indent})"])

    return style


def _aligned(func: str, arguments: Sequence[str], _: str) -> str:
    pad = " " * (len(func.rpartition("\n")[2]) + 1)
    return f"{func}(" + f",\n{pad}".join(_deeper(a, pad) for a in arguments) + ")"


def _in_pairs(func: str, arguments: Sequence[str], indent: str) -> str:
    pairs = [", ".join(arguments[n : n + 2]) for n in range(0, len(arguments), 2)]
    return f"{func}(\n{indent}    " + f",\n{indent}    ".join(pairs) + f"\n{indent})"


def _comma_first(func: str, arguments: Sequence[str], indent: str) -> str:
    return f"{func}(\n{indent}      " + f"  # it's, (one)\n{indent}    , ".join(arguments) + f"\n{indent}    )"


def _in_brackets(argument: str) -> str:
    name = re.match(r"\*\*|\*|[A-Za-z_]\w*=(?!=)", argument)
    at = name.end() if name else 0
    return f"{argument[:at]}(({argument[at:]}))"


def _over_lines(argument: str) -> str:
    return argument.replace("((", "((\n").replace("))", "\n))")


CALLS: dict[str, Style] = {
    "one line": lambda f, a, _: f"{f}({', '.join(a)})",
    "a comma at the end": lambda f, a, _: f"{f}({', '.join(a)}{',' if a else ''})",
    "a comma and spaces": lambda f, a, _: f"{f}( {' , '.join(a)}{' , ' if a else ''})",
    "spaces": lambda f, a, _: f"{f} ( {' , '.join(a)} )",
    "no spaces": lambda f, a, _: f"{f}({','.join(a)})",
    "hugged": _hugged(),
    "hugged, a comma at the end": _hugged(last=","),
    "hugged by tabs": _hugged(last=",", step="\t"),
    "closed on the last line": lambda f, a, i: f"{f}(\n{i}    " + f",\n{i}    ".join(a) + ")",
    "closed on the last line behind a comma": lambda f, a, i: f"{f}(\n{i}    " + "".join(f"{x},\n{i}    " for x in a)[: -len(i) - 5] + ")",
    "aligned": _aligned,
    "in pairs": _in_pairs,
    "comma first": _comma_first,
    "comments": _hugged("  # it's, (one)", "  # last, one", "  # opened (", "{indent}    # closed )\n"),
    "comments, a comma at the end": _hugged("  # it's, (one)", ",  # last, one", "  # opened (", "{indent}    # closed )\n"),
    "comments between": _hugged("\n    # next,", "\n    # nothing follows,\n    ,", "\n    # opened ("),
    "an empty line between": _hugged("\n", ",\n"),
    "backslashes": lambda f, a, i: f"{f}(" + f", \\\n{i}    ".join(a) + ")",
    "values in brackets": lambda f, a, _: f"{f}({', '.join(map(_in_brackets, a))})",
    "values in brackets over lines": lambda f, a, _: f"{f}({', '.join(_over_lines(_in_brackets(x)) for x in a)})",
}


def _statements(program: str, change: Callable[[str, ast.stmt], str | None]) -> str:
    """The program with every statement of its top level but imports and blocks changed; None keeps one."""
    lines = program.splitlines(keepends=True)
    out, done = [], 0
    for node in ast.parse(program).body:
        assert node.end_lineno is not None
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        out += lines[done : first - 1]
        text = "".join(lines[first - 1 : node.end_lineno])
        simple = isinstance(node, (ast.Assign, ast.Expr)) and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        out.append((change(text, node) if simple else None) or text)
        done = node.end_lineno
    return "".join([*out, *lines[done:]])


def _value(text: str, node: ast.stmt, form: str) -> str | None:
    if not isinstance(node, (ast.Assign, ast.Expr)):
        return None
    at = node.value.col_offset if node.value.lineno == node.lineno else None
    code, _, tail = text.rstrip("\n").partition("  #")
    tail = tail and f"  #{tail}"
    return None if at is None else f"{code[:at]}{form.format(code[at:])}{tail}\n"


def _walrus(text: str, node: ast.stmt) -> str | None:
    if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
        return None
    return f"({text.rstrip().partition('  #')[0].replace(' = ', ' := ', 1)})\n"


def _annotated(text: str, node: ast.stmt) -> str | None:
    plain = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    return text.replace(" = ", ": object = ", 1) if plain else None


def _inside(head: str, step: str = "    ") -> Callable[[str], str]:
    """The whole program, but its ``__future__``, as the body of a block."""

    def layout(program: str) -> str:
        body = "".join(f"{step}{line}" if line.strip() else line for line in program.splitlines(keepends=True))
        return f"{head}\n{body}"

    return layout


def _after_imports(program: str, text: str) -> str:
    """The program with ``text`` behind its leading imports."""
    lines = program.splitlines(keepends=True)
    imports = [n.end_lineno or 0 for n in ast.parse(program).body if isinstance(n, (ast.Import, ast.ImportFrom))]
    at = max(imports, default=0)
    return "".join([*lines[:at], text, *lines[at:]])


STATEMENTS: dict[str, Callable[[str], str]] = {
    "in brackets": lambda p: _statements(p, lambda t, n: _value(t, n, "({})")),
    "in brackets over lines": lambda p: _statements(p, lambda t, n: _value(t, n, "(  # (\n    {}\n)")),
    "behind a backslash": lambda p: _statements(p, lambda t, n: _value(t, n, "\\\n    {}") if isinstance(n, ast.Assign) else None),
    "a semicolon behind": lambda p: _statements(p, lambda t, n: _value(t, n, "{};")),
    "a statement behind": lambda p: _statements(p, lambda t, n: _value(t, n, "{}; print('ß')")),
    "a statement before": lambda p: _statements(p, lambda t, _: f"print('ß', \"🎉\"); {t}"),
    "a comment behind": lambda p: _statements(p, lambda t, n: _value(t, n, "{}  # ( größe [ '") if "#" not in t else None),
    "a comment before": lambda p: _statements(p, lambda t, _: f"# größe ' (\n{t}"),
    "formatter off": lambda p: _statements(p, lambda t, _: f"# fmt: off\n{t}# fmt: on\n"),
    "one-line if": lambda p: _statements(p, lambda t, n: f"if True: {t}" if isinstance(n, ast.Expr) else None),
    "one-line with": lambda p: _statements(p, lambda t, n: f"with open('x') as f: {t}" if isinstance(n, ast.Expr) else None),
    "alone in an if": lambda p: _statements(p, lambda t, n: f"if True:\n    {_deeper(t.rstrip())}\n" if isinstance(n, ast.Expr) else None),
    "in a try": lambda p: _statements(p, lambda t, _: f"try:\n\t{_deeper(t.rstrip(), chr(9))}\nfinally:\n\tpass\n"),
    "walrus": lambda p: _statements(p, _walrus),
    "annotated": lambda p: _statements(p, _annotated),
    "form feeds": lambda p: _statements(p, lambda t, _: f"\f\n{t}"),
    "a form feed before": lambda p: _statements(p, lambda t, _: f"\f{t}"),
    "in a function": _inside("def main():"),
    "in a function by tabs": _inside("def main():", "\t"),
    "in a class": _inside("class Größe:"),
    "in a method": _inside("class Größe:\n    @staticmethod\n    @print\n    def main():", "        "),
    "in a with": _inside("with open('ß') as file:"),
    "in an if": _inside("if __name__ == '__main__':"),
    "by one space": _inside("if True:", " "),
    "a docstring": lambda p: f'"""Größe.\n\nimport os\n"""\n\n{p}',
    "the future": lambda p: f'#!/usr/bin/env python\n"""Größe."""\n\nfrom __future__ import annotations\n{p}',
    "types only": lambda p: (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from transformers import BitsAndBytesConfig as Unused\n" + p
    ),
    "a constant between": lambda p: _after_imports(p, "größe = 'ß🎉'\n"),
}


def _encoded(encoding: str, head: str) -> Callable[[str], bytes]:
    return lambda p: f"{head}{p}".encode(encoding)


BYTES: dict[str, Callable[[str], bytes]] = {
    "windows": lambda p: p.replace("\n", "\r\n").encode(),
    "old mac": lambda p: p.replace("\n", "\r").encode(),
    "mixed newlines": lambda p: p.replace("\n", "\r\n", 3).encode(),
    "byte order mark": lambda p: b"\xef\xbb\xbf" + f"# größe\n{p}".encode(),
    "byte order mark, windows": lambda p: b"\xef\xbb\xbf" + p.replace("\n", "\r\n").encode(),
    "latin-1": _encoded("latin-1", "# -*- coding: latin-1 -*-\ngröße = 'ß'; "),
    "shift-jis": _encoded("shift-jis", "# coding: shift-jis\nx = 'あ表'; "),
    "utf-8": _encoded("utf-8", "größe = 'ß🎉\u2028'; "),
    "no newline at the end": lambda p: p.rstrip("\n").encode(),
    "spaces at the end": lambda p: p.rstrip("\n").encode() + b"  \n \n\n",
    "a comment at the end": lambda p: (
        p.rstrip("\n").encode() + b"  # last (" if "#" not in p.rstrip("\n").rpartition("\n")[2] else p.encode()
    ),
}


@dataclass(frozen=True)
class Cells:
    """A notebook of cells, written as one of the programs that write notebooks does."""

    indent: int | str | None = 1
    as_text: bool = False
    escaped: bool = False
    final: str = "\n"
    magics: str = ""
    split: bool = False
    newline: str = "\n"

    def __call__(self, program: str) -> bytes:
        parts = [program.rstrip("\n")]
        if self.split:
            lines = program.splitlines(keepends=True)
            ends = [n.end_lineno or 0 for n in ast.parse(program).body]
            parts = ["".join(lines[a:b]).rstrip("\n") for a, b in zip([0, *ends], [*ends, len(lines)], strict=False) if lines[a:b]]
        cells: list[dict[str, object]] = [{"cell_type": "markdown", "id": "ä1", "metadata": {}, "source": ["# größe\n", "import x"]}]
        for number, part in enumerate(parts):
            text = f"{self.magics}{part}".replace("\n", self.newline)
            source = text if self.as_text else re.findall(r"[^\n]*\n|[^\n]+", text)
            output = {"output_type": "stream", "name": "stdout", "text": [part, "größe 🎉"]}
            rest = {"execution_count": number, "id": f"c{number}", "source": source, "outputs": [output], "metadata": {"z": 1.0, "a": "</"}}
            cells.append({"cell_type": "code", **rest})
        whole = {"cells": cells, "metadata": {"kernelspec": {"language": "python", "name": "ü"}}, "nbformat": 4, "nbformat_minor": 5}
        return (json.dumps(whole, indent=self.indent, ensure_ascii=self.escaped) + self.final).encode()


NOTEBOOKS: dict[str, Cells] = {
    "Jupyter": Cells(),
    "Jupyter, cells": Cells(split=True),
    "Colab": Cells(indent=2, escaped=True, final=""),
    "one string": Cells(as_text=True),
    "one line": Cells(indent=None, as_text=True, final=""),
    "tabs": Cells(indent="\t", final="\n\n"),
    "magics": Cells(magics="%load_ext größe\n!pip install 'peft'\n"),
    "timed": Cells(magics="%%time\n# größe\n"),
    "windows in the source": Cells(newline="\r\n", as_text=True),
    "escaped cells": Cells(split=True, escaped=True, as_text=True),
}


def _fenced(program: str, mark: str = "```", info: str = "python", indent: str = "") -> str:
    body = "".join(f"{indent}{line}" if line.strip() else line for line in program.splitlines(keepends=True))
    return f"# Größe\n\n{indent}{mark}{info}\n{body}{indent}{mark}\n\nnächste\n"


def _session(program: str) -> str:
    ends = {n.lineno for n in ast.parse(program).body}
    lines = [
        f"{'>>>' if at in ends or not line.strip() else '...'} {line}" for at, line in enumerate(program.splitlines(), 1) if line.strip()
    ]
    return "Größe\n=====\n\n" + "\n".join(lines) + "\nNone\n\nEnde\n"


def _directive(program: str) -> str:
    body = "".join(f"   {line}\n" if line.strip() else "\n" for line in program.splitlines())
    return f"Größe\n=====\n\n.. code-block:: python\n   :linenos:\n\n{body}\nEnde\n"


DOCUMENTS: dict[str, tuple[str, Callable[[str], str]]] = {
    "Markdown": ("a.md", _fenced),
    "Markdown, tildes": ("a.md", lambda p: _fenced(p, "~~~~", "py")),
    "Markdown, in a list": ("a.md", lambda p: "1. größe\n\n" + _fenced(p, indent="   ")),
    "Markdown, windows": ("a.md", lambda p: _fenced(p).replace("\n", "\r\n")),
    "reStructuredText": ("a.rst", _directive),
    "doctest": ("a.rst", _session),
}
