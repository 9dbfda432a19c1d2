"""LD114."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Peft, Trainer
from loradoctor.lint.flow.values import Derived, Known
from loradoctor.lint.module import Arrival, Module, Site, literal
from loradoctor.rule import rule

_INSIDE_KEYS = frozenset("lora lora_ lora_A lora_B weight bias base_layer q_proj k_proj v_proj o_proj".split())
"""Names that are part of a tensor's key, where releases before 0.18 took them out by plain text replacement."""


@rule("LD114", Severity.ERROR, "MA4", "MA5", "MA7")
def adapter_name(module: Module) -> Iterator[Finding]:
    """An adapter's name is missing, cannot be used, or is taken.

    `PeftModel.load_adapter` needs a name, other than the method of the same name in transformers. A name becomes part of a
    module's path: with a dot in it PyTorch raises `KeyError`. Loading onto a name that is taken replaces that adapter's
    weights without a word.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "adapters/poet", adapter_name="poet.v2")
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "adapters/poet", adapter_name="poet_v2")
    ```
    """
    for site in module.calls("peft.*", "load_adapter", "add_adapter"):
        if site.name in ("load_adapter", "add_adapter") and not site.sometimes(lambda a: a.facts(a.receiver, Peft)):
            continue
        found = site.sometimes(lambda a: isinstance(literal(a.arg("adapter_name")), str))
        name = literal(found.arg("adapter_name")) if found else None
        if isinstance(name, str):
            yield from _unusable(module, site, name)
        if site.name == "load_adapter":
            yield from _nameless(module, site)
            yield from _taken(module, site)


def _unusable(module: Module, site: Site, name: str) -> Iterator[Finding]:
    written = site.argument("adapter_name")
    place: ir.Node = written.value if written is not None else site.node
    if "." in name:
        better = name.replace(".", "_")
        own = written is not None and isinstance(written.value, ir.Const)
        yield module.finding(
            place,
            f"the adapter's name `{name}` contains a dot",
            help="the name becomes part of a module's path: `KeyError: module name can't contain \".\"`; use `_` or `-`",
            fix=Fix(f"call it `{better}`", (module.replace(place, f'"{better}"'),), safe=False) if own else None,
        )
    elif name in _INSIDE_KEYS and module.before("peft", "0.18"):
        yield module.finding(
            place,
            f"the adapter's name `{name}` is part of the tensors' own names",
            severity=Severity.WARNING,
            help="before PEFT 0.18 a reload confuses both and leaves the adapter untrained; choose another name",
        )


def _nameless(_: Module, site: Site) -> Iterator[Finding]:
    def nameless(arrival: Arrival) -> bool:
        facts = arrival.facts(arrival.receiver, Peft)
        return facts is not None and not facts.touched and arrival.arg("adapter_name") is None

    if site.sometimes(nameless):
        yield site.finding(
            "`load_adapter` of a PEFT model is called without the adapter's name",
            help="`TypeError`: only models of transformers can do without; pass `adapter_name`, then activate it with `set_adapter`",
        )


def _taken(module: Module, site: Site) -> Iterator[Finding]:
    """Loaded straight onto an adapter that was itself just loaded and never used."""
    if len(site.arrivals) != 1 or module.is_test:
        return
    arrival = site.arrivals[0]
    facts, name = arrival.facts(arrival.receiver, Peft), arrival.arg("adapter_name")
    if facts is None or facts.touched or not isinstance(name, Known):
        return
    first = facts.made if facts.adapters[:1] == (name,) and facts.how in ("from_pretrained", "auto") and not facts.waiting else None
    source = facts.source
    for waiting in facts.waiting:
        if waiting.name == name and waiting.how == "load":
            first, source = waiting.site, module.sites[waiting.site.uid].arrivals[-1].arg("model_id")
    if not isinstance(first, ir.Call) or first is site.node or source == arrival.arg("model_id") or _used(module, arrival, first):
        return
    yield site.finding(
        f"the adapter is loaded onto the name `{name.value}`, which another adapter has",
        severity=Severity.WARNING,
        related=module.related(first, "loaded first here and never used"),
        help="the first adapter's weights are replaced without a word; give the second a name of its own",
    )


def _used(module: Module, second: Arrival, first: ir.Call) -> bool:
    """Whether the model does anything between the two loads."""
    oid = second.oid(second.receiver)
    begin = module.sites[first.uid].arrivals[-1].visit.step

    def is_it(arrival: Arrival) -> bool:
        receiver = arrival.receiver.source if isinstance(arrival.receiver, Derived) else arrival.receiver
        trainer = arrival.facts(receiver, Trainer)
        return arrival.oid(trainer.model if trainer else receiver) == oid

    return any(begin < a.visit.step < second.visit.step and is_it(a) for s in module.sites.values() for a in s.arrivals)
