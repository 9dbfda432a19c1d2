"""LD405."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Config
from loradoctor.lint.flow.trace import Store
from loradoctor.lint.flow.values import Items, Known, Obj, Unknown, Value
from loradoctor.lint.module import Module, Site
from loradoctor.rule import rule

_COMMON = frozenset({"task_type", "inference_mode", "target_modules", "modules_to_save", "exclude_modules", "fan_in_fan_out"})
_LORA = _COMMON | {
    "r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "use_dora", "init_lora_weights", "layers_to_transform",
    "layers_pattern", "rank_pattern", "alpha_pattern",
}  # fmt: skip
_FIELDS = {
    "peft.LoraConfig": _LORA,
    "peft.AdaLoraConfig": _LORA | {"target_r", "init_r", "total_step", "orth_reg_weight"},
    "peft.IA3Config": _COMMON | {"feedforward_modules", "init_ia3_weights"},
}
"""The fields that people mean; the newest ones are left out, since what looks like them may be one of tomorrow's."""
_MEANT = {
    "alpha": "lora_alpha", "dropout": "lora_dropout", "rank": "r", "lora_r": "r", "lora_rank": "r", "lora_dim": "r",
    "target_module": "target_modules", "targets": "target_modules", "lora_target_modules": "target_modules",
    "rslora": "use_rslora", "dora": "use_dora", "module_to_save": "modules_to_save",
}  # fmt: skip
_CLOSE = 0.9
"""How alike a name must be to a field to count as its misspelling: `lora_droput` is at 0.96, `lora_bias` at 0.67 to `lora_alpha`."""
_REAL = frozenset({"lora_bias", "lora_dropout", "target_parameters"})


@rule("LD405", Severity.ERROR, "CF5", "CF6")
def unknown_config_field(module: Module) -> Iterator[Finding]:
    """A LoRA configuration is given a field under a name that it does not have, or by position.

    As an argument an unknown name raises a `TypeError`. Assigned to the configuration afterwards it is taken without a word
    and read by nobody: the adapter is made with the default. Given by position, the first values are not rank and
    alpha but the fields every configuration begins with.

    ```python
    from peft import LoraConfig

    config = LoraConfig(r=16, alpha=32, target_modules=["q_proj", "v_proj"])
    ```
    What to write instead:
    ```python
    from peft import LoraConfig

    config = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"])
    ```
    """
    if module.is_test:
        return
    for site in module.calls(*_FIELDS):
        yield from _keywords(module, site)
        yield from _positions(site)
    seen: set[int] = set()
    for store in module.stores:
        field = _assigned(module, store)
        if field is None or store.node.uid in seen:
            continue
        seen.add(store.node.uid)
        yield module.finding(
            store.node,
            f"`{store.name}` is assigned to a configuration that has no such field",
            help=f"nothing reads it and the adapter is made without it; the field is called `{field}`",
            fix=_renamed(module, store, field),
        )


def _meant(cls: str, name: str) -> str | None:
    """The field that a name is taken for."""
    fields = _FIELDS[cls]
    if name in fields or name in _REAL:
        return None
    field = _MEANT.get(name)
    if field is None:
        field = max(fields, key=lambda f: SequenceMatcher(None, name, f).ratio())
        field = field if len(field) > 1 and SequenceMatcher(None, name, field).ratio() >= _CLOSE else None
    return field if field in fields else None


def _keywords(module: Module, site: Site) -> Iterator[Finding]:
    taken = {arg.name for arg in site.node.args}
    for name in dict.fromkeys(name for a in site.arrivals for name in a.visit.binding.values):
        field = _meant(site.name, name)
        if field is None:
            continue
        arg = site.argument(name)
        edit = arg is not None and field not in taken
        yield module.finding(
            arg.value if arg else site.node,
            f"`{site.name.rpartition('.')[2]}` has no field `{name}`",
            help=f"the call raises a `TypeError`; the field is called `{field}`",
            fix=Fix(f"write `{field}`", (module.replace(arg, f"{field}={module.text(arg.value)}"),)) if arg and edit else None,
        )


def _positions(site: Site) -> Iterator[Finding]:
    def misplaced(value: Value) -> bool:
        number = isinstance(value, Known) and isinstance(value.value, (int, float))
        return number or isinstance(value, Items)

    found = site.sometimes(lambda a: not a.visit.binding.open and any(misplaced(v) for v in a.visit.binding.positional))
    text = site.sometimes(lambda a: any(isinstance(v, Known) and isinstance(v.value, str) for v in a.visit.binding.positional[1:]))
    if found or text:
        yield site.finding(
            f"fields of `{site.name.rpartition('.')[2]}` are given by position",
            help="the first fields are `task_type` and others that every configuration has, not rank and alpha; name every argument",
        )


def _assigned(module: Module, store: Store) -> str | None:
    """The field that is meant by an attribute assigned to a configuration made in sight, of PEFT's own class."""
    receiver = store.receiver
    oid = receiver.oid if isinstance(receiver, Obj) else receiver.key if isinstance(receiver, Unknown) else None
    facts = store.heap.get(oid) if oid is not None else None
    if not isinstance(facts, Config) or not isinstance(facts.made, ir.Call) or facts.cls not in _FIELDS:
        return None
    # a class of this project that is built upon PEFT's has fields of its own
    own = module.text(facts.made.func).rpartition(".")[2] != facts.cls.rpartition(".")[2]
    return None if own else _meant(facts.cls, store.name)


def _renamed(module: Module, store: Store, field: str) -> Fix | None:
    target = store.node.targets[0] if isinstance(store.node, ir.Assign) and len(store.node.targets) == 1 else None
    if not isinstance(target, ir.Attr):
        return None
    return Fix(f"write `{field}`", (module.replace(target, f"{module.text(target.value)}.{field}"),), safe=False)
