"""Lint: from source files and notebooks to findings. The package itself is callable: ``loradoctor.lint(paths)``."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loradoctor.diagnostic import Report


class _CallablePackage(ModuleType):
    # Importing any module below here binds the name `loradoctor.lint` to this package, whatever it was bound to before;
    # so the public function of that name can only be the package.
    def __call__(self, *args: object, **kwargs: object) -> Report:
        from loradoctor.api import lint

        return lint(*args, **kwargs)  # type: ignore[arg-type] # forwarded as they are


sys.modules[__name__].__class__ = _CallablePackage
