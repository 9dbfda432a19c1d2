"""What is read out of wheels: two releases of a small library."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "released_api.py"

OLD = {
    "lib/__init__.py": "from .train import Trainer, Settings\nfrom .old import Gone\n",
    "lib/old.py": "class Gone: pass\n",
    "lib/train.py": '''
import warnings
from dataclasses import dataclass, field
from typing import ClassVar

@dataclass
class Base:
    rate: float = 1.0
    kind: ClassVar[str] = "x"
    made: int = field(init=False)

@dataclass
class Settings(Base):
    length: int = 1
    strategy: str = "no"
    def __post_init__(self):
        if isinstance(self.strategy, list):
            warnings.warn("a list for `strategy` is deprecated")
        if self.length is not None:
            warnings.warn("`length` is deprecated and will be removed")

class Trainer:
    def __init__(self, model, tokenizer=None, **kwargs):
        self.verbose = kwargs.pop("verbose", False)
        for name in ["mirror", "fast"]:
            kwargs.pop(name, None)
''',
}
NEW = {
    "lib/__init__.py": "_import_structure = {'train': ['Trainer', 'Settings']}\n",
    "lib/train.py": '''
from dataclasses import dataclass
from lib.shims import deprecate_kwarg
from .base import Base as _Base

@dataclass
class Settings(_Base):
    strategy: str = "no"
    size: int = 1

class Trainer:
    @deprecate_kwarg("tokenizer", "3.0", "processor")
    def __init__(self, model, processor=None):
        pass

class Wrapper(Trainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
''',
    "lib/base.py": "from dataclasses import dataclass\n\n@dataclass\nclass Base:\n    rate: float = 1.0\n",
}


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("released_api", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["released_api"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for number, sources in (("1.9.0", OLD), ("1.10.0", NEW)):
        with zipfile.ZipFile(tmp_path / f"lib-{number}-py3-none-any.whl", "w") as wheel:
            for name, text in sources.items():
                wheel.writestr(name, text)
    return tmp_path


def _lives(tool: ModuleType, directory: Path, call: str) -> dict[str, tuple[str, str, str]]:
    lives, _ = tool.history(tool.read(tool.wheels(directory, "lib"), [call])[call])
    return {name: (life.since, life.deprecated, life.until) for name, life in lives.items()}


def test_fields_are_those_that_the_constructor_takes(tool: ModuleType, directory: Path) -> None:
    assert _lives(tool, directory, "lib.Settings") == {
        "rate": ("1.9.0", "", ""),
        "length": ("1.9.0", "1.9.0", "1.10.0"),
        "strategy": ("1.9.0", "", ""),
        "size": ("1.10.0", "", ""),
    }


def test_what_is_taken_out_of_keywords_and_what_a_shim_translates_is_a_parameter(tool: ModuleType, directory: Path) -> None:
    assert _lives(tool, directory, "lib.Trainer") == {
        "model": ("1.9.0", "", ""),
        "tokenizer": ("1.9.0", "1.10.0", ""),
        "verbose": ("1.9.0", "", "1.10.0"),
        "mirror": ("1.9.0", "", "1.10.0"),
        "fast": ("1.9.0", "", "1.10.0"),
        "processor": ("1.10.0", "", ""),
    }


def test_a_wrapper_that_hands_everything_on_takes_what_its_base_takes(tool: ModuleType, directory: Path) -> None:
    wheel = tool.wheels(directory, "lib")[-1]
    found = wheel.parameters("lib.Wrapper")
    assert (found.names, found.open) == ({"model", "processor", "tokenizer"}, False)


def test_public_names_come_and_go(tool: ModuleType, directory: Path) -> None:
    lives = tool.name_history(tool.wheels(directory, "lib"))
    assert (lives["Gone"].until, lives["Trainer"].until) == ("1.10.0", "")
    assert tool.wheels(directory, "lib")[0].offers("lib.train.Base")
    assert not tool.wheels(directory, "lib")[1].offers("lib.old.Gone")
