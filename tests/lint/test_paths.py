"""Paths that are the same are known to be, however they are put together; others never are."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from loradoctor.lint.flow import paths
from loradoctor.lint.flow.values import Items, Known, Template, Unknown, Value
from loradoctor.lint.module import Module, analyse
from loradoctor.lint.source import Source

HEAD = """
import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path

from peft import PeftModel
from transformers import HfArgumentParser, TrainingArguments

OUT = "runs/last"


@dataclass
class Common:
    root: str = "runs"


@dataclass
class Choices(Common):
    name: str = field(default="last", metadata={"help": "of the run"})
    size: int = 3


def options():
    parser = argparse.ArgumentParser()
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output-dir", default="./runs/")
    parser.add_argument("--adapter", dest="which", default="last")
    parser.add_argument("--seed", type=int)
    return parser.parse_args()
"""


def loads(body: str) -> tuple[Module, list[Value | None]]:
    source = Source.from_bytes("train.py", f"{HEAD}\n{textwrap.dedent(body)}".encode())
    module = analyse(source)
    return module, [a.arg("model_id") for site in module.calls("peft.PeftModel.from_pretrained") for a in site.arrivals]


@pytest.mark.parametrize(
    "path",
    [
        "'runs/last'",
        "'./runs//last/'",
        "OUT",
        "Path(OUT)",
        "Path('runs') / 'last'",
        "Path('runs').joinpath('last').as_posix()",
        "str(Path('runs', 'last'))",
        "os.path.join('runs', '', 'last')",
        "os.path.normpath('runs/./last')",
        "'runs' + '/' + 'last'",
        "f'runs/{\"last\"}'",
        "'{}/{name}'.format('runs', name='last')",
        "'runs/last/'.rstrip('/')",
        "os.path.join(Choices().root, Choices().name)",
    ],
)
def test_a_path_of_literals_is_known(path: str) -> None:
    module, (value,) = loads(f"PeftModel.from_pretrained(base, {path})")
    assert paths.place(value, module.trace.defaults) == paths.Place("runs/last")


@pytest.mark.parametrize(
    "body",
    [
        "args = options()\nPeftModel.from_pretrained(base, os.path.join(args.output_dir, args.which))",
        "args = options()\nPeftModel.from_pretrained(base, Path(args.output_dir) / args.which)",
        "args, rest = argparse.ArgumentParser().parse_known_args()\nPeftModel.from_pretrained(base, options().output_dir + 'last')",
        "a, t = HfArgumentParser((Choices, TrainingArguments)).parse_args_into_dataclasses()\nPeftModel.from_pretrained(base, a.root + '/last')",
        "a = HfArgumentParser(Choices).parse_args_into_dataclasses()[0]\nPeftModel.from_pretrained(base, f'{a.root}/{a.name}')",
        "def main(out: str = 'runs/last'):\n    PeftModel.from_pretrained(base, out)",
        "PeftModel.from_pretrained(base, os.getenv('OUT', 'runs/last'))",
        "where = os.environ.get('ROOT', 'runs')\nPeftModel.from_pretrained(base, Path(where, 'last'))",
    ],
)
def test_a_path_of_defaults_is_assumed(body: str) -> None:
    module, (value,) = loads(body)
    assert paths.place(value, module.trace.defaults) == paths.Place("runs/last", assumed=True)


@pytest.mark.parametrize(
    "body",
    [
        "PeftModel.from_pretrained(base, somewhere)",
        "PeftModel.from_pretrained(base, f'runs/{step}')",
        "PeftModel.from_pretrained(base, os.environ['OUT'])",
        "args = options()\nPeftModel.from_pretrained(base, f'{args.output_dir}/{args.seed}')",
        "for name in os.listdir('runs'):\n    PeftModel.from_pretrained(base, os.path.join('runs', name))\n    break",
        "PeftModel.from_pretrained(base, '')",
    ],
)
def test_a_path_with_unknown_parts_is_undecided(body: str) -> None:
    module, values = loads(body)
    assert {paths.place(value, module.trace.defaults) for value in values} == {None}


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("args.output_dir", "Path(args.output_dir)", True),
        ("os.path.join(args.output_dir, 'a')", "f'{args.output_dir}/a/'", True),
        ("os.environ['OUT']", "os.getenv('OUT', 'x')", True),
        ("args.output_dir", "args.which", False),
        ("os.path.join(args.output_dir, 'a')", "args.output_dir", False),
        ("options().output_dir", "args.output_dir", True),
    ],
)
def test_symbols_of_one_origin_are_one_path_in_a_run(one: str, other: str, equal: bool) -> None:
    _, (first, second) = loads(f"args = options()\nPeftModel.from_pretrained(base, {one})\nPeftModel.from_pretrained(base, {other})")
    assert paths.same(first, second) is equal


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [("./a/", "a"), ("a//b/./c", "a/b/c"), (".", "."), ("/", "/"), ("s3://bucket//a/", "s3://bucket//a/"), ("~/a/", "~/a"), ("a/../b", "b")],
)
def test_spellings_of_a_path_are_one(text: str, cleaned: str) -> None:
    assert paths.clean(text) == cleaned
    assert paths.normal(Known(text)) == Known(cleaned)


def test_values_that_are_no_paths_are_not_compared() -> None:
    assert paths.normal(None) is None
    assert not paths.same(None, None)
    assert not paths.same(Template((Unknown("a"), Known("/b"))), Known("b"))


def test_checkpoints_are_filed_without_their_step() -> None:
    assert paths.pattern("runs/checkpoint-500") == f"runs/{paths.CHECKPOINT}"
    assert paths.pattern("runs/checkpoint-best") == "runs/checkpoint-best"


@pytest.mark.parametrize(
    "table",
    [
        "dict(r=8, target_modules=['q_proj'])",
        "dict({'r': 4}, r=8, target_modules=['q_proj'])",
        "dict([('r', 8), ('target_modules', ['q_proj'])])",
        "{'r': 4} | {'r': 8, 'target_modules': ['q_proj']}",
        "{**{'r': 8}, 'target_modules': ['q_proj']}",
        "asdict(Lora(8))",
        "vars(Lora(r=8))",
    ],
)
def test_arguments_out_of_a_table_are_those_of_the_call(table: str) -> None:
    body = (
        "from dataclasses import asdict\nfrom peft import LoraConfig\n@dataclass\nclass Lora:\n    r: int = 4\n"
        f"    target_modules: list = field(default_factory=lambda: ['q_proj'])\nLoraConfig(**{table})\n"
    )
    module, _ = loads(body)
    ((arrival,),) = [site.arrivals for site in module.calls("peft.LoraConfig")]
    assert arrival.arg("r") == Known(8)
    assert arrival.arg("target_modules") == Items("list", (Known("q_proj"),))
    assert arrival.arg("bias") is None, "nothing else was passed"


@pytest.mark.parametrize("table", ["dict(loaded)", "{'r': 8} | loaded", "asdict(loaded)", "dict(loaded, r=8)", "yaml.safe_load(loaded)"])
def test_what_comes_out_of_a_file_may_be_anything(table: str) -> None:
    module, _ = loads(f"import yaml\nfrom dataclasses import asdict\nfrom peft import LoraConfig\nLoraConfig(**{table})\n")
    ((arrival,),) = [site.arrivals for site in module.calls("peft.LoraConfig")]
    assert arrival.arg("bias") is not None


def test_a_default_decides_no_condition(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(HEAD + "args = options()\nif args.which == 'last':\n    PeftModel.from_pretrained(base, 'a')\nelse:\n"
                      "    PeftModel.from_pretrained(base, 'b')\n")  # fmt: skip
    module = analyse(Source.read(str(script)))
    assert len(list(module.calls("peft.PeftModel.from_pretrained"))) == 2
