"""The repairs in the order in which they are made; each looks at the draft and changes it, or leaves it alone."""

from __future__ import annotations

from collections.abc import Callable

from loradoctor.repair.draft import Draft
from loradoctor.repair.steps.config import housekeeping, method, target_modules
from loradoctor.repair.steps.contents import base_weights, orphans, several_adapters
from loradoctor.repair.steps.dtypes import dtypes
from loradoctor.repair.steps.halves import halves
from loradoctor.repair.steps.initial import initial_adapter
from loradoctor.repair.steps.names import adapter_names, foreign_prefix, prefix, saved_modules, spelling, wrappers
from loradoctor.repair.steps.ranks import flags, ranks

STEPS: tuple[Callable[[Draft], None], ...] = (
    method,
    wrappers,
    several_adapters,
    adapter_names,
    spelling,
    prefix,
    foreign_prefix,
    saved_modules,
    orphans,
    halves,
    base_weights,
    ranks,
    flags,
    target_modules,
    dtypes,
    initial_adapter,
    housekeeping,
)
"""Names first: ranks, flags and targets are read from the tensors, whose modules must be known by then."""
