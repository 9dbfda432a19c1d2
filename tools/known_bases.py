"""Write down the widths and depths of well-known base models, each with the file that proves it.

    python tools/known_bases.py --litgpt litgpt/config.py --nanogpt nanoGPT/model.py --configs DIR …

Three kinds of files are read, none of them run except litgpt's table of configurations (a dataclass and literals):

- `litgpt/config.py` of the released package, which names the repository on the hub for every configuration,
- `model.py` of nanoGPT, whose `from_pretrained` lists the sizes of GPT-2 and compares them with the published weights,
- `config.json` files of models whose `_name_or_path` is a repository: the widths of the model they were made from. Fine-tuning may
  have changed the vocabulary, so that is not taken from them.

The result is `loradoctor/checkpoint/known_bases.json`: per model `hidden`, `intermediate`, `layers`, `query` and `kv` (widths of
the projections' outputs) and `vocabulary`, as far as the source says; fields that a source does not say are left out. `type` is the
architecture, by the table of `tools/hub_ids.py`; a model that has none there is left out. What the architectures call the modules of
a layer comes from the table of `tools/architectures.py`.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loradoctor.lint.libraries.hub_ids import architecture_of

ROOT = Path(__file__).parent.parent / "loradoctor"
TABLE = ROOT / "checkpoint" / "known_bases.json"
_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_NANOGPT = re.compile(r"'(gpt2[\w-]*)':\s*dict\(n_layer=(\d+), n_head=(\d+), n_embd=(\d+)\)")

Entry = tuple[str, dict[str, int], str]


def litgpt(path: Path) -> Iterator[Entry]:
    """The configurations of litgpt; those with latent attention have no key width of their own and are left out."""
    sys.path.insert(0, str(path.parent))
    module = importlib.import_module(path.stem)
    version = next((p.name.removesuffix(".dist-info").partition("-")[2] for p in path.parent.parent.glob("litgpt-*.dist-info")), "")
    for raw in module.configs:
        repository = raw["hf_config"]
        if raw.get("latent_attention"):
            continue
        config = module.Config(**raw)
        sizes = {
            "hidden": config.n_embd,
            "intermediate": config.moe_intermediate_size or config.intermediate_size,
            "layers": config.n_layer,
            "query": config.n_head * config.head_size,
            "kv": config.n_query_groups * config.head_size,
            "vocabulary": config.padded_vocab_size,
        }
        yield f"{repository['org']}/{repository['name']}", sizes, f"litgpt {version} config.py".replace("  ", " ")


def nanogpt(path: Path) -> Iterator[Entry]:
    """The sizes of GPT-2."""
    for name, layers, _, width in _NANOGPT.findall(path.read_text(encoding="utf-8")):
        sizes = {"hidden": int(width), "intermediate": 4 * int(width), "layers": int(layers), "query": int(width), "kv": int(width)}
        yield f"openai-community/{name}", {**sizes, "vocabulary": 50257}, "nanoGPT model.py"


def configs(directory: Path) -> Iterator[Entry]:
    """Every `*.json` below ``directory`` that is the config of a model made from a repository on the hub."""
    for path in sorted(directory.rglob("*.json")):
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(config, dict) or not config.get("architectures"):
            continue
        name = config.get("_name_or_path")
        sizes = _sizes(config)
        if isinstance(name, str) and "/" in name and _HUB_ID.fullmatch(name) and name[0] not in "./" and {"hidden", "layers"} <= set(sizes):
            yield name, sizes, f"config.json, transformers {config.get('transformers_version') or 'of unknown version'}"


def _sizes(config: dict[str, Any]) -> dict[str, int]:
    hidden = config.get("hidden_size") or config.get("n_embd") or config.get("d_model") or config.get("n_embed")
    heads = config.get("num_attention_heads") or config.get("n_head")
    if not isinstance(hidden, int):
        return {}
    head = config.get("head_dim") or (hidden // heads if isinstance(heads, int) and heads else None)
    # Without its own number of key heads a config may still have fewer of them, under a name of its architecture.
    keys = config.get("num_key_value_heads")
    found = {
        "hidden": hidden,
        "intermediate": config.get("intermediate_size") or config.get("n_inner") or config.get("d_ff"),
        "layers": config.get("num_hidden_layers") or config.get("n_layer") or config.get("num_layers"),
        "query": heads * head if keys and heads and head else None,
        "kv": keys * head if keys and head else None,
    }
    return {key: value for key, value in found.items() if isinstance(value, int)}


def modules(types: set[str]) -> dict[str, list[str]]:
    """Architecture → the names of the modules of one layer, from the layer's number on."""
    known = json.loads(gzip.decompress((ROOT / "lint" / "libraries" / "architectures.json.gz").read_bytes()))["architectures"]
    found = {}
    for kind in sorted(types):
        names = [*known[kind].get("linear", ()), *known[kind].get("conv1d", ())]
        found[kind] = sorted({name.rpartition("#.")[2] for name in names if "#." in name})
    return found


def main() -> int:
    """Read the sources and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litgpt", type=Path)
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--configs", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    entries: list[Entry] = []
    entries += litgpt(arguments.litgpt) if arguments.litgpt else []
    entries += nanogpt(arguments.nanogpt) if arguments.nanogpt else []
    for directory in arguments.configs:
        entries += configs(directory)
    table: dict[str, dict[str, Any]] = {}
    for name, sizes, source in entries:
        # The first source is the most precise one; names on the hub do not differ by case alone.
        kind = architecture_of(name)
        if kind is not None and name.lower() not in {known.lower() for known in table}:
            table[name] = {"type": kind, **sizes, "source": source}
    lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(table.items(), key=lambda item: item[0].lower())]
    families = [f"  {json.dumps(kind)}: {json.dumps(names)}" for kind, names in modules({e["type"] for e in table.values()}).items()]
    TABLE.write_text(
        '{"modules": {\n' + ",\n".join(families) + '\n},\n"bases": {\n' + ",\n".join(lines) + "\n}}\n", encoding="utf-8"
    )
    print(f"{len(table)} models in {TABLE}; without a known architecture: {sorted({e[0] for e in entries} - set(table))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
