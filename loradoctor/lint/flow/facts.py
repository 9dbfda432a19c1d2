"""What is known about the objects of a program at one moment. Immutable: the heap maps an identity to its facts now."""

from __future__ import annotations

from typing import ClassVar

from loradoctor.lint import ir
from loradoctor.lint.flow.values import Oid, Value
from loradoctor.lint.record import record

Site = ir.Node
"""Where something happened: the call or statement that did it."""


@record
class Facts:
    """Base of all facts; ``made`` is where the object came from, None when that is out of sight."""

    field_names: ClassVar[tuple[str, ...]]
    made: Site | None = None


@record
class Instance(Facts):
    """An object of some class: a library's by name, or one of this file's."""

    cls: str = ""


@record
class Tokenizer(Instance):
    """A tokenizer, and the model it is loaded for."""

    source: Value | None = None


@record
class Pipeline(Instance):
    """A diffusion pipeline: where LoRA layers went into it, and a load after which nothing has been chosen or computed."""

    injected: Site | None = None
    waiting: Site | None = None


@record
class Model(Facts):
    """An ``nn.Module`` that is not a PEFT wrapper, perhaps with adapter layers inside."""

    cls: str = ""
    source: Value | None = None
    quantized: str | None = None
    prepared: Site | None = None
    injected: Site | None = None
    injected_by: str = ""
    wrapper: Oid | None = None
    native: Site | None = None
    merged: Site | None = None
    touched: Site | None = None
    frozen: Site | None = None
    unfrozen: Site | None = None
    merged_source: Value | None = None
    shell: Site | None = None

    @property
    def carries_adapter(self) -> bool:
        """Whether adapter layers of `get_peft_model` or `from_pretrained` sit inside it now."""
        return self.injected is not None


@record
class Waiting:
    """An adapter that went into a PEFT model by ``how`` (``load``, ``add``, ``combine``) and has not been activated since."""

    how: str
    name: Value
    site: ir.Call


@record
class Peft(Facts):
    """A PEFT wrapper around ``base``; ``adapters`` are their names, ``shell`` what was put around it last."""

    base: Oid = ""
    how: str = ""
    config: Value | None = None
    source: Value | None = None
    trainable: bool | None = None
    prompt: bool = False
    gutted: Site | None = None
    unloaded: bool = False
    filled: Site | None = None
    frozen: Site | None = None
    unfrozen: Site | None = None
    touched: Site | None = None
    trained: Site | None = None
    adapters: tuple[Value, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    unmerged: Site | None = None
    shell: Site | None = None


@record
class Config(Facts):
    """An adapter configuration."""

    cls: str = ""
    fields: tuple[tuple[str, Value], ...] = ()
    complete: bool = True
    loaded_from: Value | None = None
    changed: bool = False

    def get(self, name: str) -> Value | None:
        """The value a field was given, if it was."""
        return dict(self.fields).get(name)


@record
class Quantization(Facts):
    """A quantization configuration; ``bits`` is ``"4-bit"``, ``"8-bit"``, another method's name, or None when undecided."""

    bits: str | None = None


@record
class Trainer(Facts):
    """A trainer and the model it was built with."""

    cls: str = ""
    model: Value | None = None
    peft_config: Value | None = None
    output: Value | None = None
    trained: Site | None = None


@record
class Directory(Facts):
    """A directory: where an adapter, and where a merged model, was written into it.

    ``assumed`` when that it is the same directory rests on the defaults of settings.
    """

    adapter: Site | None = None
    merged: Site | None = None
    assumed: bool = False


@record
class Optimizer(Facts):
    """An optimizer, the model whose parameters it was given, and the adapter that model carried then."""

    cls: str = ""
    model: Oid | None = None
    injected_then: Site | None = None
