"""LD325."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Config, Peft
from loradoctor.lint.flow.values import Derived
from loradoctor.lint.module import Arrival, Module, literal
from loradoctor.rule import rule

_MUTATING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that take the adapter's start out of the base weights."""
_AS_THE_BASE = {
    "disable_adapter": "is not the base model's output",
    "unload": "does not give the base model back",
    "add_adapter": "works on changed base weights",
    "load_adapter": "works on changed base weights",
}


@rule("LD325", Severity.WARNING, "MG8")
def weights_mutating_init(module: Module) -> Iterator[Finding]:
    """An initialisation changed the base weights, and the program takes them for the original ones.

    PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA move a part of each base weight into the adapter. With the adapter switched off or
    unloaded, what remains is not the base model; an adapter trained on the original base does not fit. PiSSA on a quantized
    base fails at once. Reloading the adapter on the same base, and merging it, are right.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(init_lora_weights="pissa", task_type="CAUSAL_LM"))
    Trainer(model=model).train()
    with model.disable_adapter():
        print(model.generate(max_new_tokens=20))
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(init_lora_weights=True, task_type="CAUSAL_LM"))
    Trainer(model=model).train()
    with model.disable_adapter():
        print(model.generate(max_new_tokens=20))
    ```
    To keep the initialisation, convert the adapter when saving (`path_initial_model_for_weight_conversion`) or load a second,
    untouched base for comparison.
    """
    reported: set[int] = set()
    for site in module.calls(*_AS_THE_BASE):
        for arrival in site.arrivals:
            receiver = arrival.receiver.source if isinstance(arrival.receiver, Derived) else arrival.receiver
            facts = arrival.facts(receiver, Peft)
            config = arrival.facts(facts.config, Config) if facts and not (facts.touched or facts.gutted) else None
            method = _method(config)
            if config is None or method is None or not isinstance(config.made, ir.Call) or site.node.uid in reported:
                continue
            if facts is None or facts.how == "from_pretrained" or _replaces_itself(arrival, facts) or _base_is_kept(arrival):
                continue
            reported.add(site.node.uid)
            yield site.finding(
                f"`{site.name}` {_AS_THE_BASE[site.name]}: `{method}` has changed the base weights",
                related=module.related(config.made, "the initialisation is chosen here"),
                help="a part of each base weight went into the adapter; compare with a freshly loaded base, or choose another initialisation",
            )
    yield from _on_quantized(module)


def _method(config: Config | None) -> str | None:
    value = literal(config.get("init_lora_weights")) if config else None
    return value if isinstance(value, str) and value.startswith(_MUTATING) else None


def _replaces_itself(arrival: Arrival, facts: Peft) -> bool:
    """Whether the adapter's own weights are loaded back."""
    return arrival.visit.name == "load_adapter" and arrival.arg("adapter_name") in facts.adapters


def _base_is_kept(arrival: Arrival) -> bool:
    """Whether the changed base is taken out to be saved beside the adapter, which then belongs to it."""
    oid = arrival.oid(arrival.visit.result)
    saves = arrival.module.calls("save_pretrained", "push_to_hub")
    return arrival.visit.name == "unload" and any(a.oid(a.receiver) == oid for s in saves for a in s.arrivals)


def _on_quantized(module: Module) -> Iterator[Finding]:
    def impossible(arrival: Arrival) -> Config | None:
        config, base = arrival.facts(arrival.arg("peft_config"), Config), arrival.base(arrival.arg("model"))
        quantized = base is not None and base[1].quantized in ("4-bit", "8-bit") and not base[1].touched
        return config if quantized and (_method(config) or "").startswith("pissa") else None

    for site in module.calls("peft.get_peft_model"):
        found = site.sometimes(impossible)
        config = impossible(found) if found else None
        if config is not None:
            yield site.finding(
                "PiSSA is asked for on a quantized base",
                related=module.related(config.made, "the initialisation is chosen here"),
                help="it decomposes full-precision weights and raises `TypeError`; load the base unquantized, or choose another initialisation",
            )
