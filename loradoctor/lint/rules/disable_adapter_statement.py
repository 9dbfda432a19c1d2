"""LD208."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Model, Peft
from loradoctor.lint.flow.values import Unknown
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_AROUND_PEFT = frozenset({"peft", "transformers", "trl", "accelerate"})
"""Where one of these is imported, `disable_adapter` is PEFT's."""


@rule("LD208", Severity.ERROR, "TR11")
def disable_adapter_statement(module: Module) -> Iterator[Finding]:
    """`disable_adapter()` is called as a statement, which disables nothing.

    It is a context manager: only inside `with model.disable_adapter():` is the adapter off. Called on its own line it makes
    a generator that nobody enters, and the model keeps answering with the adapter.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "runs/last")
    model.disable_adapter()
    reference = model.generate(max_new_tokens=20)
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "runs/last")
    with model.disable_adapter():
        reference = model.generate(max_new_tokens=20)
    ```
    """

    def on_peft(arrival: Arrival) -> bool:
        if arrival.facts(arrival.receiver, Peft):
            return True
        if arrival.facts(arrival.receiver, Model):
            return False
        unseen = arrival.receiver
        return isinstance(unseen, Unknown) and not unseen.key.startswith("object@") and not _AROUND_PEFT.isdisjoint(module.imports)

    for site in module.calls("disable_adapter"):
        if site.dropped and site.sometimes(on_peft):
            yield site.finding(
                "`disable_adapter()` as a statement disables nothing: it is a context manager",
                help="the adapter stays on; write `with model.disable_adapter():` around what should run without it",
            )
