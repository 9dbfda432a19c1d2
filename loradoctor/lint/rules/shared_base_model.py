"""LD110."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Model, Peft
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.rule import rule


@rule("LD110", Severity.ERROR, "LO9")
def shared_base_model(module: Module) -> Iterator[Finding]:
    """An adapter is loaded onto a base model that another adapter is still inside.

    PEFT changes the base model in place. A second `PeftModel.from_pretrained` on the same base finds the first adapter's
    layers there and writes its own weights into them: both PEFT models now answer with the second adapter. Layers that only
    the first adapter had stay in. Reload the base, call `unload()` on the first PEFT model, or keep one PEFT model and add
    the second adapter to it with `load_adapter`.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    poet = PeftModel.from_pretrained(base, "adapters/poet")
    lawyer = PeftModel.from_pretrained(base, "adapters/lawyer")
    print(poet.generate(max_new_tokens=20), lawyer.generate(max_new_tokens=20))
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "adapters/poet", adapter_name="poet")
    model.load_adapter("adapters/lawyer", adapter_name="lawyer")
    model.set_adapter("lawyer")
    print(model.generate(max_new_tokens=20))
    ```
    """

    def occupied(arrival: Arrival) -> Model | None:
        facts = arrival.facts(arrival.arg("model"), Model)
        return facts if facts and facts.carries_adapter and not facts.native else None

    for site in module.calls("peft.PeftModel*"):
        found = site.sometimes(occupied) if site.name.endswith(".from_pretrained") else None
        facts = occupied(found) if found else None
        if found is None or facts is None or _unloaded(module, found, facts):
            continue
        again = facts.injected is site.node
        both = not again and facts.injected_by == "from_pretrained" and _still_used(module, found, facts)
        yield site.finding(
            "an adapter is loaded onto the same base again, in the next turn of the loop, with the last one still inside"
            if again
            else "an adapter is loaded onto a base model that another adapter is still inside",
            severity=Severity.ERROR if both and site.always(occupied) else Severity.WARNING,
            related=() if again else module.related(facts.injected, "the first adapter goes in here, in place"),
            help="both share the base's layers: the first PEFT model answers with the second's weights, or layers of the first stay in; "
            "reload the base, call `unload()` first, or add the second with `load_adapter`",
        )


def _unloaded(module: Module, second: Arrival, base: Model) -> bool:
    """Whether the first adapter has been taken out before on some path, under a condition that nobody can see through."""
    sites: Iterator[Site] = module.calls("unload", "merge_and_unload")
    return any(a.oid(a.receiver) == base.wrapper and a.visit.step < second.visit.step for site in sites for a in site.arrivals)


def _still_used(module: Module, second: Arrival, base: Model) -> bool:
    """Whether the first PEFT model is called, merged or saved after the second was made."""
    uses: Iterator[Site] = module.calls("generate", "forward", "__call__", "save_pretrained", "merge_and_unload")
    return any(
        a.visit.step > second.visit.step and a.oid(a.receiver) == base.wrapper and isinstance(a.visit.heap.get(base.wrapper or ""), Peft)
        for site in uses
        for a in site.arrivals
    )
