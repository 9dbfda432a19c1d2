"""The catalogue's cases, made anew by real PEFT calls, and the models they belong to."""

import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The builders of the catalogue are a benchmark, not part of the package.
sys.path.insert(0, str(ROOT / "benchmarks"))
pytest.importorskip("peft")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """PEFT asks the hub for the base's config when it saves; the tests' bases are not there."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """A function from the name of a base model to its directory."""
    from catalogue import models

    root = tmp_path_factory.mktemp("bases")

    def get(name="llama"):
        if not (root / name).is_dir():
            models.model(name).save_pretrained(root / name)
        return str(root / name)

    return get


@pytest.fixture
def case(tmp_path):
    """A function that makes a case of the catalogue and returns its directory."""
    from catalogue import config, files, heads, keys, values  # noqa: F401 -- they register their cases
    from catalogue.case import CASES

    def make(number):
        (name,) = [n for n in CASES if n.startswith(number)]
        directory = tmp_path / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            CASES[name].build(directory)
        return directory

    return make


@pytest.fixture
def good(tmp_path):
    """A function that saves a healthy adapter, by default the catalogue's usual one, and returns its directory."""
    from catalogue import models

    def make(name="good", on="llama", **more):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            models.save(tmp_path / name, on, **more)
        return tmp_path / name

    return make
