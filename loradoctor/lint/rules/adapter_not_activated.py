"""LD113."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Peft, Waiting
from loradoctor.lint.flow.values import Derived, Known
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_OTHER_WAYS = frozenset({"adapter_names", "ref_adapter_name", "hotswap_adapter", "active_adapter", "active_adapters", "enable_adapters"})
"""Words that tell of another way to choose an adapter."""


@rule("LD113", Severity.ERROR, "MA1")
def adapter_not_activated(module: Module) -> Iterator[Finding]:
    """A second adapter is loaded and never activated: the model goes on answering with the first.

    `PeftModel.load_adapter` puts the adapter into the model and leaves the active one active. Without `set_adapter` the
    outputs, and what `merge_and_unload` merges, are those of the adapter that was there before, without a word.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(model, "adapters/poet")
    model.load_adapter("adapters/lawyer", adapter_name="lawyer")
    print(model.generate(max_new_tokens=20))
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(model, "adapters/poet")
    model.load_adapter("adapters/lawyer", adapter_name="lawyer")
    model.set_adapter("lawyer")
    print(model.generate(max_new_tokens=20))
    ```
    """
    if not module.program.words.isdisjoint(_OTHER_WAYS):
        return
    reported: set[int] = set()
    for use in module.calls("generate", "forward", "__call__", "merge_and_unload"):
        for arrival in use.arrivals:
            for waiting in unused(arrival, "load"):
                if waiting.site.uid in reported or not isinstance(waiting.name, Known):
                    continue
                reported.add(waiting.site.uid)
                yield module.finding(
                    waiting.site,
                    f"adapter `{waiting.name.value}` is loaded and never activated",
                    related=module.related(use.node, "the model is used with the adapter it had before"),
                    help=f'`load_adapter` leaves the active adapter active; call `model.set_adapter("{waiting.name.value}")` after it',
                )


def unused(arrival: Arrival, how: str) -> tuple[Waiting, ...]:
    """The adapters that are in the model a call is made on, and that nothing on any path activates."""
    receiver = arrival.receiver
    if isinstance(receiver, Derived) and receiver.kind == "tuner":
        receiver = receiver.source
    facts = arrival.facts(receiver, Peft)
    if facts is None or facts.touched or facts.gutted or facts.how == "mixed" or arrival.module.is_test:
        return ()
    # A `**batch` could hold anything, but nobody passes `adapter_names` without the word being in the file.
    if "adapter_names" in arrival.visit.binding.values or arrival.module.happened("activated", arrival.oid(receiver)):
        return ()
    settled = all(isinstance(name, Known) for name in facts.adapters)
    return tuple(w for w in facts.waiting if w.how == how) if settled else ()
