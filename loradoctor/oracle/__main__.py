"""Entry of the child process, started by path: expose this package under a name of its own and serve one request."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAME = "loradoctor_oracle"


def _expose() -> None:
    # Started by path, the interpreter puts this directory first on sys.path, where `weights` or `forward` would shadow
    # somebody's module. The package is registered under one unlikely name instead.
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != HERE]
    spec = importlib.util.spec_from_file_location(NAME, HERE / "__init__.py", submodule_search_locations=[str(HERE)])
    if spec is None or spec.loader is None:
        raise ImportError(NAME)
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    _expose()
    sys.exit(importlib.import_module(f"{NAME}.session").main())
