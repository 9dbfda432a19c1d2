"""Which adapter configurations go into a base model whose architecture is known: what rules about target modules ask."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Config, Model
from loradoctor.lint.flow.values import NONE, Items, Known, Obj, Oid, Ref, Value
from loradoctor.lint.libraries.architectures import Architecture, architecture, of_class, vocabulary
from loradoctor.lint.libraries.hub_ids import architecture_of
from loradoctor.lint.libraries.peft import PROMPT_CONFIGS
from loradoctor.lint.module import Arrival, Module, Site, literal
from loradoctor.lint.record import record

_WRAPS = ("peft.get_peft_model", "peft.PeftModel*", "peft.PeftMixedModel", "peft.inject_adapter_in_model", "trl.*", "add_adapter")
_OTHER_TARGETS = PROMPT_CONFIGS | {"peft.AdaptionPromptConfig", "peft.XLoraConfig"}
LITERAL = re.compile(r"""(?P<quote>["'])(?P<text>\w+)(?P=quote)""")
_FALSE = (None, NONE, Known(False))  # noqa: FBT003 -- the value, not a flag


@record
class Fitting:
    """One arrival of a configuration at a base model; ``architecture`` is None where it is not certain, ``base`` what to call it."""

    site: Site
    arrival: Arrival
    config: Config
    architecture: Architecture | None
    base: str


def fittings(module: Module) -> Iterator[tuple[ir.Call, list[Fitting]]]:
    """Every configuration made in sight that says which modules it is for, with all its arrivals."""
    found: dict[int, tuple[ir.Call, list[Fitting]]] = {}
    for site in module.calls(*_WRAPS):
        for arrival in site.arrivals:
            value = arrival.arg("peft_config") or arrival.arg("adapter")
            config = arrival.facts(value, Config)
            if config is None or config.cls in _OTHER_TARGETS or not isinstance(config.made, ir.Call):
                continue
            model = arrival.receiver if site.name == "add_adapter" else arrival.arg("model")
            kind, base = base_of(arrival, model)
            found.setdefault(config.made.uid, (config.made, []))[1].append(Fitting(site, arrival, config, kind, base))
    yield from found.values()


def base_of(arrival: Arrival, model: Value | None) -> tuple[Architecture | None, str]:
    """The architecture of a model, by its class or by the repository it comes from, and what to call it; None where not certain."""
    name = literal(model)
    if isinstance(name, str):  # TRL's trainers load a model they are given by name
        return _known(architecture_of(name)), name
    base = arrival.base(model)
    if base is None or _other_layers(arrival.module):
        return None, ""
    oid, facts = base
    if facts.touched or facts.native or facts.injected or not facts.cls.startswith(("transformers.", "unsloth.")):
        return None, ""
    cls = facts.cls.rpartition(".")[2]
    if "Auto" not in cls and facts.cls.startswith("transformers."):
        return _known(of_class(cls)), cls
    source = literal(facts.source)
    if not isinstance(source, str) or not _plainly_loaded(arrival, oid, facts):
        return None, ""
    return _known(architecture_of(source)), source


def _other_layers(module: Module) -> bool:
    """Whether a class of transformers is replaced by another, whose layers may be called otherwise."""
    return any(isinstance(s.receiver, Ref) and s.receiver.name.startswith("transformers.") and s.name[:1].isupper() for s in module.stores)


def _known(name: str | None) -> Architecture | None:
    return architecture(name) if name else None


def _plainly_loaded(arrival: Arrival, oid: Oid, facts: Model) -> bool:
    """Whether a model is transformers' own code for its repository: not code from there, not another configuration."""
    if not isinstance(oid, tuple) or facts.made is None:
        return False
    made = arrival.maker(Obj(oid))
    return made is not None and all(made.arg(name) in _FALSE for name in ("trust_remote_code", "config", "gguf_file", "subfolder"))


def listed(value: Value | None) -> list[str | None] | None:
    """The items of a list of names, None for one that is not known; None for anything but a list."""
    if not isinstance(value, Items):
        return None
    return [text if isinstance(text := literal(item), str) else None for item in value.items]


def written(module: Module, call: ir.Call, field: str, item: str = "") -> ir.Expr:
    """Where to point: at an item of a list in the call, at the argument, else at the call."""
    site = module.sites.get(call.uid)
    argument = site.argument(field) if site else None
    if argument is None:
        return call
    if item and isinstance(argument.value, ir.Sequence):
        return next((i for i in argument.value.items if isinstance(i, ir.Const) and i.value == item), argument.value)
    return argument.value


def joined(module: Module, node: ir.Expr, name: str) -> list[str]:
    """The names that a missing comma has made one."""
    if not isinstance(node, ir.Const) or node.value != name:
        return []
    parts = [m["text"] for m in LITERAL.finditer(module.text(node))]
    return parts if len(parts) > 1 and "".join(parts) == name and set(parts) <= vocabulary() else []
