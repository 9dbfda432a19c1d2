"""The fields of every PEFT method's config, release by release, read from PEFT's sources without importing them.

    python tools/config_fields.py --repository PATH/TO/peft [--installed SITE-PACKAGES/peft --version 0.21.2] --write

Each release tag of the repository (a clone of huggingface/peft, bare or not) is parsed; a field gets the first release that has it, the
first that has it no more, and the type that the newest release declares. ``--installed`` adds a release that the clone lacks. The result
is ``loradoctor/checkpoint/methods/config_fields.json``.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

TARGET = Path(__file__).parent.parent / "loradoctor" / "checkpoint" / "methods" / "config_fields.json"
GIT = shutil.which("git") or "git"
_TAG = re.compile(r"v(\d+)\.(\d+)\.(\d+)$")
_SOURCES = re.compile(r"(^|/)peft/(tuners/.*|utils/config|config|utils/peft_types)\.py$")
_COMMON = frozenset(
    "is_prompt_learning auto_mapping base_model_name_or_path inference_mode peft_type peft_version revision task_type".split()
)
"""What every config has."""

Fields = dict[str, str]


def _releases(repository: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Every release's version and its sources by path, oldest first."""
    tags = subprocess.run([GIT, "-C", repository, "tag"], check=True, capture_output=True, text=True).stdout.split()
    for match in sorted((m for t in tags if (m := _TAG.match(t))), key=lambda m: tuple(map(int, m.groups()))):
        archive = subprocess.run([GIT, "-C", repository, "archive", match[0], "src/peft"], check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            members = [m for m in files if m.isfile() and _SOURCES.search(m.name)]
            yield match[0][1:], {m.name: files.extractfile(m).read().decode() for m in members}  # type: ignore[union-attr]


def _classes(sources: Mapping[str, str]) -> dict[str, ast.ClassDef]:
    trees = [ast.parse(text) for text in sources.values()]
    return {node.name: node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _peft_type(node: ast.ClassDef) -> str | None:
    """The method that a config class is for, from ``self.peft_type = PeftType.X``."""
    for statement in ast.walk(node):
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Attribute):
            target = statement.targets[0]
            if isinstance(target, ast.Attribute) and target.attr == "peft_type" and ast.unparse(statement.value.value) == "PeftType":
                return statement.value.attr
    return None


def _fields(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> Fields:
    found: Fields = {}
    for base in node.bases:
        parent = classes.get(ast.unparse(base).rpartition(".")[2])
        if parent is not None and parent is not node:
            found |= _fields(parent, classes)
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if statement.value is not None and re.search(r"\binit=False\b", ast.unparse(statement.value)):
                found.pop(statement.target.id, None)
            else:
                found[statement.target.id] = _type(statement.annotation, classes)
    return {name: kind for name, kind in found.items() if name not in _COMMON}


def _type(node: ast.expr, classes: Mapping[str, ast.ClassDef]) -> str:
    """An annotation as alternatives of what JSON can hold: ``list|str|null``; literal values in quotes, anything else as ``any``."""
    return "|".join(dict.fromkeys(_alternatives(node, classes)))


def _alternatives(node: ast.expr, classes: Mapping[str, ast.ClassDef]) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield from _alternatives(ast.parse(node.value, mode="eval").body, classes)
        else:
            yield "null" if node.value is None else "any"
    elif isinstance(node, ast.BinOp):
        yield from _alternatives(node.left, classes)
        yield from _alternatives(node.right, classes)
    elif isinstance(node, ast.Subscript):
        outer = ast.unparse(node.value).rpartition(".")[2]
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if outer in ("Optional", "Union"):
            for each in inner:
                yield from _alternatives(each, classes)
            if outer == "Optional":
                yield "null"
        elif outer == "Literal":
            yield from (repr(each.value) if isinstance(each, ast.Constant) and isinstance(each.value, str) else "any" for each in inner)
        elif outer.lower() in ("list", "tuple", "set", "dict"):
            yield outer.lower().replace("tuple", "list").replace("set", "list")
        else:
            yield "any"
    else:
        name = ast.unparse(node).rpartition(".")[2]
        known = {"int", "float", "bool", "str", "list", "dict"}
        if name in classes:
            enum = any("Enum" in ast.unparse(base) for base in classes[name].bases)
            yield from _members(classes[name]) if enum else ["dict"]
        else:
            yield name if name in known else {"List": "list", "Dict": "dict"}.get(name, "any")


def _members(node: ast.ClassDef) -> Iterator[str]:
    for statement in node.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            yield repr(statement.value.value)


def collect(releases: Iterator[tuple[str, dict[str, str]]]) -> tuple[str, dict[str, dict[str, list[str | None]]]]:
    """The newest release, and per method its fields as ``[type, first release, first release without or null]``."""
    methods: dict[str, dict[str, list[str | None]]] = {}
    newest = ""
    for version, sources in releases:
        newest = version
        classes = _classes(sources)
        for node in classes.values():
            peft_type = _peft_type(node) if node.name.endswith("Config") else None
            if peft_type is None:
                continue
            table = methods.setdefault(peft_type, {})
            fields = _fields(node, classes)
            for name, kind in fields.items():
                since = table.get(name, [kind, version])[1]
                table[name] = [kind, since, None]
            for name in table.keys() - fields.keys():
                table[name][2] = table[name][2] or version
    return newest, {m: dict(sorted(f.items())) for m, f in sorted(methods.items())}


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--installed", type=Path, help="a directory `peft` of a release that the repository has no tag for")
    parser.add_argument("--version", help="the version of --installed")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()

    def releases() -> Iterator[tuple[str, dict[str, str]]]:
        yield from _releases(arguments.repository)
        if arguments.installed is not None:
            files = sorted(p for p in arguments.installed.rglob("*.py") if _SOURCES.search(p.as_posix()))
            yield arguments.version, {p.as_posix(): p.read_text(encoding="utf-8") for p in files}

    newest, methods = collect(releases())
    rows = [
        f"{json.dumps(method)}: {{\n" + ",\n".join(f" {json.dumps(n)}: {json.dumps(v)}" for n, v in fields.items()) + "\n}"
        for method, fields in methods.items()
    ]
    text = f'{{"release": {json.dumps(newest)},\n"methods": {{\n' + ",\n".join(rows) + "\n}}\n"
    if arguments.write:
        TARGET.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
