"""Write down which architecture the repositories have that transformers itself names.

    python tools/hub_ids.py SITE_PACKAGES...    (after tools/architectures.py)

Each argument is a directory with one release of `transformers`. The configuration class of an architecture names the repository its
defaults come from, and the examples in the modelling files load one. A repository is kept when every release and every place
agree and at least two of them name it; one that names several parts of one model counts for the whole. Models over any language
or vision model are left out: their modules are not decided by their type. The result is `loradoctor/lint/libraries/hub_ids.json`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from loradoctor.lint.libraries.architectures import data, of_class
from loradoctor.lint.libraries.hub_ids import families

FILE = Path(__file__).parent.parent / "loradoctor" / "lint" / "libraries" / "hub_ids.json"
_CLASS = re.compile(r'(?:@auto_docstring\(([^)]*)\)\n(?:@\w+[^\n]*\n)*)?class (\w+Config)\(.*?\):(.*?)(?=\n(?:@|class )|\Z)', re.DOTALL)
_TYPE = re.compile(r'model_type\s*(?::\s*\w+\s*)?=\s*"([^"]+)"')
_NAMED = re.compile(r'checkpoint="([\w.-]+/[\w.-]+)"|https://huggingface\.co/([\w.-]+/[\w.-]+)\)')
_LOADED = re.compile(r'\b([A-Z]\w+)\.from_pretrained\(\s*"([\w-][\w.-]*/[\w.-]+)"')
_NO_MODEL = ("Auto", "Processor", "Tokenizer", "Config", "Extractor")


def places(package: Path) -> Iterator[tuple[str, str, str]]:
    """``(repository, model type, kind of place)`` of everything a release names."""
    types: dict[str, str] = {}
    for path in sorted(package.glob("models/*/configuration_*.py")):
        for head, name, body in _CLASS.findall(path.read_text()):
            kind = _TYPE.search(body)
            if kind is None:
                continue
            types[name.removesuffix("Config")] = kind[1]
            named = _NAMED.search(head or "") or _NAMED.search(body[:3000])
            if named:
                yield named[1] or named[2], kind[1], "configuration"
    for path in sorted(package.glob("models/*/modeling_*.py")):
        for cls, repository in _LOADED.findall(path.read_text()):
            if any(word in cls for word in _NO_MODEL):
                continue
            prefix = max((p for p in types if cls.startswith(p)), key=len, default=None)
            if prefix is not None:
                yield repository, types[prefix], "example"


def whole(types: set[str]) -> str | None:
    """The one type of a set in which the others are parts of it (``gemma3_vision`` of ``gemma3``)."""
    shortest = min(types, key=len)
    return shortest if all(t == shortest or t.startswith((f"{shortest}_", f"{shortest}-")) for t in types) else None


def main() -> None:
    """Read the releases and write the file."""
    parser = argparse.ArgumentParser(description="Write the table of repositories.")
    parser.add_argument("packages", nargs="+", type=Path, help="directories with a transformers package")
    seen: dict[str, Counter[tuple[str, str, str]]] = defaultdict(Counter)
    for package in parser.parse_args().packages:
        for repository, model_type, place in places(package / "transformers"):
            seen[repository][model_type, place, str(package)] += 1
    closed = {of_class(name) for name in data()["classes"]}
    found: dict[str, str] = {}
    for repository, evidence in sorted(seen.items()):
        kind = whole({named for named, _, _ in evidence})
        if kind is None or kind not in closed or sum(k == kind for k, _, _ in evidence) < 2:
            continue
        guessed = families(repository)
        if guessed and guessed != kind:
            print(f"{repository}: {kind}, by its name {guessed}")
            continue
        found[repository] = kind
    FILE.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
    print(f"{len(found)} repositories, {len(set(found.values()))} architectures")


if __name__ == "__main__":
    main()
