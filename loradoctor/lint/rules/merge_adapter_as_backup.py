"""LD324."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Peft
from loradoctor.lint.flow.values import Derived
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD324", Severity.INFO, "MG7")
def merge_adapter_as_backup(module: Module) -> Iterator[Finding]:
    """`merge_adapter` and `unmerge_adapter` are called in turns: the base weights drift.

    `merge_adapter` keeps no copy of the base; `unmerge_adapter` subtracts the update again, rounded both times. Ten turns
    change fp32 weights by about 4e-8, fp16 by 2e-3 and bf16 by 2e-2. For a look at the merged model now and then, in 32 bits,
    that is nothing; in a loop over training steps it adds up.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("gpt2"), "runs/last")
    for step in range(100):
        model.merge_adapter()
        print(model.generate(max_new_tokens=step))
        model.unmerge_adapter()
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("gpt2"), "runs/last")
    for step in range(100):
        print(model.generate(max_new_tokens=step))
    ```
    """

    def again(arrival: Arrival) -> Peft | None:
        receiver = arrival.receiver.source if isinstance(arrival.receiver, Derived) else arrival.receiver
        facts = arrival.facts(receiver, Peft)
        return facts if facts and facts.unmerged else None

    for site in module.calls("merge_adapter"):
        found = site.sometimes(again)
        facts = again(found) if found else None
        if facts is not None:
            yield site.finding(
                "the adapter is merged and unmerged in turns",
                related=module.related(facts.unmerged, "unmerged here"),
                help="no copy of the base is kept: each turn rounds its weights, in 16 bits visibly; use the model unmerged, or a copy of it",
            )
