"""LD204."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Config, Facts, Model, Peft, Trainer
from loradoctor.lint.flow.values import Derived, Items, Known, Obj, Oid, Unknown, Value
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_OWN = re.compile(r"lora|adapter|prompt|prefix|ia3|oft|hada|lokr|vera|modules_to_save|bias|token|delta", re.IGNORECASE)
_WHOLE = frozenset({"merge_and_unload", "state_dict", "save_file", "save_model_to", "save_checkpoint", "save_state"})


@rule("LD204", Severity.ERROR, "TR4")
def trained_but_not_saved(module: Module) -> Iterator[Finding]:
    """Weights of the base model are made trainable around PEFT, and only the adapter is saved.

    Setting `requires_grad` by hand trains the head, the norms or everything, and the loss falls. `save_pretrained` on a PEFT
    model writes what PEFT knows of: the adapter and the modules of `modules_to_save`. What else was trained is gone after a
    reload, without a word.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("facebook/opt-350m")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    model.lm_head.requires_grad_(True)
    Trainer(model=model).train()
    model.save_pretrained("adapter")
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("facebook/opt-350m")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", modules_to_save=["lm_head"]))
    Trainer(model=model).train()
    model.save_pretrained("adapter")
    ```
    """
    if not module.program.words.isdisjoint(_WHOLE) or any(True for _ in module.calls("torch.save")):
        return
    reported: set[int] = set()
    for node, heap, value in _thawed(module):
        found = _adapted(heap, value)
        if found is None or node.uid in reported:
            continue
        wrapper, facts, part = found
        names = _names(module, node, value, part)
        if names is None or facts.gutted or facts.prompt or facts.touched or _is_saved(heap, facts, names):
            continue
        place = _saved(module, wrapper)
        if place is None:
            continue
        reported.add(node.uid)
        what = ", ".join(f"`{name}`" for name in names) if names else "every weight of the base model"
        yield module.finding(
            node,
            f"{what} is made trainable, and the adapter is saved without it",
            related=module.related(place, "only the adapter is written here"),
            help="what is trained here is lost on reload; name the modules in `modules_to_save`, or save the whole model",
        )


def _thawed(module: Module) -> Iterator[tuple[ir.Node, Mapping[Oid, Facts], Value]]:
    """Everything that is made trainable: a model, a part of one, or parameters in a loop."""
    for site in module.calls("requires_grad_"):
        for arrival in site.arrivals:
            if arrival.receiver is not None and arrival.arg("requires_grad") in (None, Known(True)) and site.dropped:  # noqa: FBT003
                yield site.node, arrival.visit.heap, arrival.receiver
    for store in module.stores:
        if store.name == "requires_grad" and store.value == Known(True):  # noqa: FBT003
            yield store.node, store.heap, store.receiver


def _adapted(heap: Mapping[Oid, Facts], value: Value) -> tuple[Oid, Peft, str] | None:
    """The PEFT model that a value belongs to, and the path of attributes from it to the value."""
    if isinstance(value, Derived):
        return _adapted(heap, value.source)
    part = ""
    oid: Oid | None = value.oid if isinstance(value, Obj) else None
    if isinstance(value, Unknown):
        oid = next((o for o, f in heap.items() if isinstance(f, (Peft, Model)) and value.key.startswith(f"{o}.")), None)
        part = value.key.removeprefix(f"{oid}.") if oid is not None else ""
    facts = heap.get(oid) if oid is not None else None
    if isinstance(facts, Model) and facts.wrapper is not None and facts.carries_adapter:
        oid, facts = facts.wrapper, heap.get(facts.wrapper)
    return (oid, facts, part) if isinstance(facts, Peft) and oid is not None else None


def _names(module: Module, node: ir.Node, value: Value, part: str) -> tuple[str, ...] | None:
    """The modules that are made trainable, none for all of them, None where that cannot be told or where they are PEFT's own."""
    if part:
        names = tuple(p for p in part.split(".") if p.isidentifier() and p not in _PATH)
        return None if _OWN.search(part) or not names or "(" in part or "[" in part else names[-1:]
    if isinstance(value, Obj):
        return ()
    if not isinstance(value, Derived) or value.kind != "parameter" or value.note == "partly":
        return None
    tests = [module.text(s.test) for s in module.around(node)]
    inside = [t for t in tests if re.search(r"\bin\b|startswith|endswith", t)]
    names = tuple(n for t in inside for n in re.findall(r"[\"']([\w.]+)[\"']", t))
    if len(inside) != len(tests) or (inside and not names) or any(re.search(r"\bnot\b|!=|requires_grad", t) for t in tests):
        return None
    return None if any(_OWN.search(n) for n in names) else names


_PATH = frozenset({"weight", "bias", "data", "base_model", "model", "module"})


def _is_saved(heap: Mapping[Oid, Facts], facts: Peft, names: tuple[str, ...]) -> bool:
    """Whether the configuration has PEFT save these modules, or cannot be seen."""
    config = heap.get(facts.config.oid) if isinstance(facts.config, Obj) else None
    if not isinstance(config, Config) or not config.complete or config.loaded_from is not None:
        return True
    listed: set[object] = set()
    for field in ("modules_to_save", "target_modules"):
        value = config.get(field)
        if value is not None and not isinstance(value, (Items, Known)):
            return True
        listed |= {v.value for v in value.items if isinstance(v, Known)} if isinstance(value, Items) else set()
    return bool(names) and all(any(str(e) in n for e in listed) for n in names)


def _saved(module: Module, wrapper: Oid) -> ir.Node | None:
    def mine(arrival: Arrival) -> bool:
        trainer = arrival.facts(arrival.receiver, Trainer)
        value = trainer.model if trainer else arrival.receiver
        facts = arrival.facts(value, Peft)
        return arrival.oid(value) == wrapper and facts is not None and facts.gutted is None

    saves = module.calls("save_pretrained", "push_to_hub", "save_model")
    return next((s.node for s in saves if s.sometimes(mine) and not s.argument("state_dict")), None)
