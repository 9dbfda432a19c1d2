"""LD213."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Config, Instance, Optimizer, Peft, Trainer
from loradoctor.lint.flow.values import NONE, Items, Ref, UserClass, Value
from loradoctor.lint.libraries.effects import of
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD213", Severity.WARNING, "TR16")
def adalora_without_update(module: Module) -> Iterator[Finding]:
    """AdaLoRA is trained without `update_and_allocate`: no rank is ever taken away.

    AdaLoRA begins with more ranks than it is to keep and prunes the least important ones while it trains. It does so only when
    `update_and_allocate` is called after every optimizer step; no trainer does that on its own. Without, every rank stays and
    the result is a LoRA of the initial rank with some overhead.

    ```python
    import torch
    from peft import AdaLoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, AdaLoraConfig(task_type="CAUSAL_LM", total_step=1000))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step, batch in enumerate(batches):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    ```
    What to write instead:
    ```python
    import torch
    from peft import AdaLoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, AdaLoraConfig(task_type="CAUSAL_LM", total_step=1000))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step, batch in enumerate(batches):
        model(**batch).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    ```
    With a `Trainer`, call it from the `on_optimizer_step` of a callback.
    """
    if "update_and_allocate" in module.program.words or module.is_test:
        return
    reported: set[int] = set()
    for site in module.calls("train", "step"):
        for arrival in site.arrivals:
            facts = arrival.facts(_trained_model(arrival), Peft)
            config = arrival.facts(facts.config, Config) if facts and not facts.touched else None
            if config is None or config.cls != "peft.AdaLoraConfig" or config.made is None or config.made.uid in reported:
                continue
            reported.add(config.made.uid)
            yield site.finding(
                "AdaLoRA is trained and `update_and_allocate` is never called",
                related=module.related(config.made, "AdaLoRA is chosen here"),
                help="no rank is pruned; call `model.base_model.update_and_allocate(step)` after every optimizer step, "
                "with a `Trainer` from a callback",
            )


def _trained_model(arrival: Arrival) -> Value | None:
    trainer = arrival.facts(arrival.receiver, Trainer)
    if trainer is not None:
        made = arrival.maker(arrival.receiver)
        own = made is None or not trainer.cls.startswith(("transformers.", "trl.")) or not _harmless(made, made.arg("callbacks"))
        return None if own else trainer.model
    optimizer = arrival.facts(arrival.receiver, Optimizer)
    return of(optimizer.model) if optimizer and optimizer.model is not None else None


def _harmless(trainer: Arrival, callbacks: Value | None) -> bool:
    """Whether every callback can be seen not to look after the ranks: the libraries' own, and classes whose text is at hand."""
    if callbacks in (None, NONE):
        return True
    if not isinstance(callbacks, Items) or any("update_and_allocate" in unit.program.words for unit in trainer.module.others):
        return False
    return all(_seen(trainer, value) for value in callbacks.items)


def _seen(trainer: Arrival, callback: Value) -> bool:
    if isinstance(callback, UserClass):
        return True
    instance = trainer.facts(callback, Instance)
    name = callback.name if isinstance(callback, Ref) else instance.cls if instance else ""
    return name.startswith(("transformers.", "trl.")) or (bool(name) and "." not in name)
