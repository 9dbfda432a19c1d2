"""LD118."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Config, Peft
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_NOT_A_METHOD = frozenset({"peft.LoftQConfig", "peft.EvaConfig", "peft.CordaConfig", "peft.LoraRuntimeConfig", "peft.ArrowConfig", "peft.PeftConfig"})
"""Classes in peft that end in `Config` and stand for no adapter method of their own."""


@rule("LD118", Severity.ERROR, "MA8", "MA9")
def mixed_adapter_use(module: Module) -> Iterator[Finding]:
    """Adapters are mixed in a way that PEFT refuses.

    One `PeftModel` holds adapters of one method: adding an IA³ adapter to a LoRA model raises `ValueError`. A
    `PeftMixedModel` takes several methods, but cannot be saved. And `adapter_names`, which chooses an adapter per row of the
    batch, is for inference: in training mode it raises `ValueError`.

    ```python
    from peft import IA3Config, LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    model.add_adapter("scales", IA3Config(task_type="CAUSAL_LM"))
    ```
    What to write instead:
    ```python
    from peft import IA3Config, LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"), mixed=True)
    model.add_adapter("scales", IA3Config(task_type="CAUSAL_LM"))
    ```
    """

    def other_method(arrival: Arrival) -> tuple[Config, Config] | None:
        facts, second = arrival.facts(arrival.receiver, Peft), arrival.facts(arrival.arg("peft_config"), Config)
        first = arrival.facts(facts.config, Config) if facts else None
        if facts is None or facts.how == "mixed" or facts.touched or first is None or second is None or first.cls == second.cls:
            return None
        return None if {first.cls, second.cls} & _NOT_A_METHOD else (first, second)

    for site in module.calls("add_adapter"):
        found = site.sometimes(other_method)
        pair = other_method(found) if found else None
        if pair is not None:
            one, two = (config.cls.partition(".")[2] for config in pair)
            yield site.finding(
                f"an adapter made with `{two}` is added to a model made with `{one}`",
                related=module.related(pair[0].made, "the first adapter's configuration"),
                help="`ValueError`: one PEFT model holds one method; make it with `get_peft_model(…, mixed=True)`",
            )
    for site in module.calls("save_pretrained"):
        if site.sometimes(lambda a: (f := a.facts(a.receiver, Peft)) is not None and f.how == "mixed" and not f.touched and not f.gutted):
            yield site.finding(
                "a `PeftMixedModel` is saved",
                help="it raises `NotImplementedError`; save the parts from models of one method, or merge and save the result",
            )
    for site in module.calls("__call__", "forward", "generate"):
        if site.argument("adapter_names") is not None and site.sometimes(_in_training_mode):
            yield site.finding(
                "`adapter_names` is passed to a model in training mode",
                help="`ValueError`: choosing an adapter per row is for inference; call `model.eval()` first, or train with `set_adapter`",
            )


def _in_training_mode(arrival: Arrival) -> bool:
    """Made for training and never, on any path, put into evaluation mode."""
    facts = arrival.facts(arrival.receiver, Peft)
    if facts is None or facts.how != "get_peft_model" or facts.touched or facts.gutted:
        return False
    base = arrival.base(arrival.receiver)
    return not any(arrival.module.happened("evaluating", oid) for oid in (arrival.oid(arrival.receiver), base[0] if base else None))
