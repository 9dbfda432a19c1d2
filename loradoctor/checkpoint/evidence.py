"""What the torch side learned about an adapter: how it loads, and how each module merges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Check

if TYPE_CHECKING:
    from loradoctor.merge.audit import Audit


@dataclass(frozen=True, slots=True)
class ShapeMismatch:
    """A tensor whose shape in the file is not the one that the model has for it."""

    key: str
    found: tuple[int, ...]
    wanted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """What the installed PEFT does with the adapter on the base model.

    ``status`` is ``fully``, ``partly``, ``not-at-all`` or ``raises``; ``loaded`` of ``total`` tensors of the file reach the
    model.
    Keys are spelled as in a file. ``unsaved`` are trained biases that the PEFT which wrote the file forgot. ``expected`` is every
    tensor PEFT would save for this adapter on this base, with its shape; ``modules`` are the names of the base's modules and
    ``class_name`` its class; ``error`` is what PEFT said when it raised.
    """

    status: str
    loaded: int = 0
    total: int = 0
    missing: tuple[str, ...] = ()
    unsaved: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    overwritten: tuple[str, ...] = ()
    mismatched: tuple[ShapeMismatch, ...] = ()
    error_type: str = ""
    error: str = ""
    warnings: tuple[str, ...] = ()
    expected: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    class_name: str = ""


@dataclass(frozen=True, slots=True)
class Loader:
    """What one way of loading makes of the adapter.

    ``status`` is ``full``, ``partial``, ``none``, ``raises`` or ``not-run``; ``loaded`` ``of`` the file's tensors reach the model;
    ``reason`` is the first thing that is wrong, or why it was not run.
    """

    loader: str
    status: str
    loaded: int = 0
    of: int = 0
    reason: str = ""


LOADERS = (
    "PeftModel.from_pretrained",
    "PeftModel.load_adapter",
    "transformers load_adapter",
    "diffusers load_lora_weights",
)


@dataclass(frozen=True, slots=True)
class ModuleMerge:
    """Merged against unmerged for one targeted module.

    ``status`` is ``equal``, ``different``, ``shared`` (a module without adapter uses the same weight), ``not-reproducible``,
    ``not-finite``, ``unmergeable`` (the method cannot), ``refused`` (this adapter cannot) or ``not-run``. ``difference`` is
    relative to
    the output in float64 and must stay within ``bound``. ``effect`` is the norm of the update over that of the weight,
    ``update`` the norm itself,
    ``lost`` the share of the update that storing the merged weight in ``dtype`` loses, ``rounding`` the worst storage error over
    what rounding may cost, ``largest`` the largest magnitude of a merged weight, ``overflow`` how many elements became infinite.
    """

    module: str
    status: str
    reason: str = ""
    dtype: str = ""
    difference: float | None = None
    bound: float | None = None
    effect: float | None = None
    update: float | None = None
    lost: float | None = None
    rounding: float | None = None
    largest: float | None = None
    overflow: int = 0
    shared_with: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything the torch side reports about one checkpoint; rules read it, nothing else does.

    ``named`` maps the codes of errors that the files alone already gave to their messages: one cause is reported once.
    ``loaders`` are all ways of loading, the first of them in detail in ``loads``. ``unmergeable`` is why the method as a whole has
    nothing to merge. ``vocabulary`` is how many tokens the base embeds, ``replaced`` are the keys of base weights saved with an
    adapted embedding that are not what this base has there. ``audit`` is what was found in the merged model, when one was named.
    """

    base: str | None = None
    loads: LoadOutcome | None = None
    loaders: tuple[Loader, ...] = ()
    merge: tuple[ModuleMerge, ...] = ()
    checks: tuple[Check, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)
    unmergeable: str = ""
    vocabulary: int | None = None
    replaced: tuple[str, ...] = ()
    audit: Audit | None = None
