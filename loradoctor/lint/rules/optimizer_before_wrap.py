"""LD202."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Model, Optimizer
from loradoctor.lint.flow.values import Items, Value
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD202", Severity.ERROR, "TR2")
def optimizer_before_wrap(module: Module) -> Iterator[Finding]:
    """The optimizer is built before the adapter exists, so it holds none of its parameters.

    `get_peft_model` freezes what the optimizer was given and adds new parameters it has never heard of. The loop runs, the
    loss stays where it is, and no weight changes.

    ```python
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    for batch in [1, 2, 3]:
        model(batch).loss.backward()
        optimizer.step()
    ```
    What to write instead:
    ```python
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for batch in [1, 2, 3]:
        model(batch).loss.backward()
        optimizer.step()
    ```
    """
    reported: set[int] = set()
    for site in module.calls("step", "transformers.*", "trl.*", "accelerate.Accelerator.prepare", "deepspeed.initialize"):
        for arrival in site.arrivals:
            for facts, model in _stale(arrival):
                if facts.made is None or facts.made.uid in reported:
                    continue
                reported.add(facts.made.uid)
                yield module.finding(
                    facts.made,
                    "the optimizer is built before `get_peft_model`: it holds none of the adapter's parameters",
                    related=module.related(model.injected, "the adapter goes in here"),
                    help="nothing is trained and the loss does not move; build the optimizer from the wrapped model",
                )


def _stale(arrival: Arrival) -> Iterator[tuple[Optimizer, Model]]:
    """The optimizers this call uses that hold the parameters of a model from before its adapter."""
    for value in _optimizers(arrival):
        facts = arrival.facts(value, Optimizer)
        model = arrival.visit.heap.get(facts.model) if facts and facts.model is not None else None
        if not facts or facts.injected_then is not None or not isinstance(model, Model):
            continue
        if model.carries_adapter and model.injected_by in ("get_peft_model", "mixed"):
            yield facts, model


def _optimizers(arrival: Arrival) -> Iterator[Value]:
    if arrival.receiver is not None:
        yield arrival.receiver
    for value in (*arrival.visit.binding.positional, *arrival.visit.binding.values.values()):
        yield from value.items if isinstance(value, Items) else (value,)
