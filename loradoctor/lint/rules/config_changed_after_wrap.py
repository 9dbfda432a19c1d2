"""LD407."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from loradoctor.diagnostic import Edit, Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.fitting import Fitting, fittings
from loradoctor.lint.flow.facts import Config, Facts, Peft, Trainer
from loradoctor.lint.flow.trace import Store
from loradoctor.lint.flow.values import NONE, Known, Obj, Oid, Unknown, Value
from loradoctor.lint.module import Arrival, Module
from loradoctor.lint.syntax import imports
from loradoctor.rule import rule

_READ_AT_WRAP = frozenset(
    """
    r lora_alpha target_modules use_rslora use_dora rank_pattern alpha_pattern fan_in_fan_out bias modules_to_save
    layers_to_transform layers_pattern exclude_modules target_r init_r
    """.split()
)
"""Fields that decide the layers when the model is wrapped, and how they are rebuilt when the adapter is loaded."""
_BY_ARCHITECTURE = (None, NONE, Known("all-linear"))
"""Targets that PEFT replaces, in the configuration itself, by the names of the first model's layers."""


@rule("LD407", Severity.ERROR, "CF8", "CF9")
def config_changed_after_wrap(module: Module) -> Iterator[Finding]:
    """A configuration is changed after `get_peft_model` has read it, or serves for a second model.

    The layers are made when the model is wrapped. A rank or alpha that is set afterwards changes nothing in the model, but it
    is what `adapter_config.json` will say: who loads the adapter gets another scaling, or shapes that do not fit. And
    the configuration is the model's own object: where PEFT chooses the target modules it writes them into it, and the next model,
    of another architecture, is searched for the first one's layers.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn"], task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    config.lora_alpha = 32
    model.save_pretrained("runs/poems")
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn"], task_type="CAUSAL_LM")
    config.lora_alpha = 32
    model = get_peft_model(base, config)
    model.save_pretrained("runs/poems")
    ```
    """
    if module.is_test:
        return
    reported: set[int] = set()
    for store in module.stores:
        wrapper = _wrapped_before(store)
        if wrapper is None or store.node.uid in reported:
            continue
        save = _saved_after(module, wrapper, store)
        if save is None and _used_again(module, store):
            continue
        reported.add(store.node.uid)
        facts = store.heap[wrapper]
        yield module.finding(
            store.node,
            f"`{store.name}` is changed after the model was wrapped",
            severity=Severity.ERROR if save else Severity.WARNING,
            related=(
                *module.related(facts.made, "the layers are made here"),
                *module.related(save, "`adapter_config.json` gets the new value here"),
            ),
            help="the layers keep the old value"
            + (", the saved configuration has the new one, and the adapter loads with it" if save else "")
            + "; set it before the model is wrapped",
        )
    yield from _shared(module)


def _wrapped_before(store: Store) -> Oid | None:
    """The PEFT model that an already read configuration belongs to, when one of its fields is set to another value."""
    key = _oid(store.receiver, store.heap)
    config = store.heap.get(key) if key is not None else None
    if not isinstance(config, Config) or store.name not in _READ_AT_WRAP or config.get(store.name) == store.value:
        return None
    wrapped = (o for o, f in store.heap.items() if isinstance(f, Peft) and f.how == "get_peft_model" and _oid(f.config, store.heap) == key)
    return next((o for o in wrapped if not _gutted(store.heap[o])), None)


def _gutted(facts: Facts) -> bool:
    return isinstance(facts, Peft) and bool(facts.gutted or facts.touched)


def _oid(value: Value | None, heap: Mapping[Oid, Facts]) -> Oid | None:
    if isinstance(value, Obj):
        return value.oid
    return value.key if isinstance(value, Unknown) and value.key in heap else None


def _saved_after(module: Module, wrapper: Oid, store: Store) -> ir.Node | None:
    """A save of the adapter that finds the changed value in the configuration."""
    for site in module.calls("save_pretrained", "push_to_hub", "save_model"):
        for arrival in site.arrivals:
            trainer = arrival.facts(arrival.receiver, Trainer)
            model = trainer.model if trainer else arrival.receiver
            facts = arrival.facts(model, Peft)
            config = arrival.facts(facts.config, Config) if facts and not _gutted(facts) else None
            if arrival.oid(model) == wrapper and config is not None and config.get(store.name) == store.value:
                return site.node
    return None


def _used_again(module: Module, store: Store) -> bool:
    """Whether the changed configuration goes into another model, which it is made for then."""
    for site in module.calls("peft.*", "trl.*", "add_adapter"):
        for arrival in site.arrivals:
            given = arrival.arg("peft_config") or arrival.arg("adapter")
            config = arrival.facts(given, Config)
            if config is not None and arrival.oid(given) == _oid(store.receiver, store.heap) and config.get(store.name) == store.value:
                return True
    return bool(module.happened("returned", _oid(store.receiver, store.heap)))


def _shared(module: Module) -> Iterator[Finding]:
    """One configuration for models of different architectures, where the first leaves its target modules in it."""
    for _, arrivals in fittings(module):
        for later in arrivals:
            first = _first_user(later.arrival)
            earlier = next((f for f in arrivals if f.site.node is first), None)
            if earlier is None or earlier is later or earlier.site is later.site or not _differ(earlier, later):
                continue
            arg = later.site.argument("peft_config")
            yield later.site.finding(
                f"the configuration has served for `{earlier.base}`, and holds the names of its layers",
                severity=Severity.WARNING,
                related=module.related(earlier.site.node, "PEFT writes the target modules into it here"),
                help=f"PEFT looks for them in `{later.base}`, where layers are called otherwise; give each model a configuration of its own",
                fix=Fix("copy the configuration", _copy(module, earlier), safe=True) if arg and earlier.site.argument("peft_config") else None,
            )
            break


def _first_user(arrival: Arrival) -> ir.Node | None:
    """Where the configuration of this call went into a model that is still there."""
    key = arrival.oid(arrival.arg("peft_config"))
    users = (f for f in arrival.visit.heap.values() if isinstance(f, Peft) and arrival.oid(f.config) == key)
    return next((f.made for f in users if f.made is not None), None)


def _differ(one: Fitting, other: Fitting) -> bool:
    first, second = one.architecture, other.architecture
    if first is None or second is None or first is second or one.config.get("target_modules") not in _BY_ARCHITECTURE:
        return False
    return not set(first.in_blocks) <= set(second.in_blocks)


def _copy(module: Module, fitting: Fitting) -> tuple[Edit, ...]:
    """Give the first model a copy: what it writes there is its own."""
    argument = fitting.site.argument("peft_config")
    if argument is None:
        return ()
    edits = [module.replace(argument.value, f"copy.deepcopy({module.text(argument.value)})")]
    bound = imports(module)
    if not any(i.bound == "copy" and i.dotted == "copy" for i in bound):
        first = next((i for i in bound if i.top and not i.dotted.startswith("__future__")), None)
        if first is None:
            return ()
        edits.append(module.insert(first.node, "import copy\n"))
    return tuple(edits)
