"""LD322."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Directory, Model, Peft
from loradoctor.lint.flow.values import Derived, Known, Template, Unknown
from loradoctor.lint.libraries.effects import directory
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD322", Severity.ERROR, "MG4")
def adapter_applied_twice(module: Module) -> Iterator[Finding]:
    """An adapter is loaded onto a model that it has been merged into before.

    The merged weights contain the update already; with the adapter on top it counts twice. The output is neither the trained
    model's nor the base model's, and nothing says so.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    merged = PeftModel.from_pretrained(base, "runs/last").merge_and_unload()
    model = PeftModel.from_pretrained(merged, "runs/last")
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "runs/last")
    ```
    Use the merged model as it is, or the base with the adapter.
    """

    def merged(arrival: Arrival) -> ir.Node | None:
        base, path = arrival.facts(arrival.arg("model"), Model), arrival.arg("model_id")
        if base is None or base.touched or not isinstance(path, (Known, Template, Unknown)) or arrival.arg("subfolder") is not None:
            return None
        if base.merged is not None and base.merged_source == path:
            return base.merged
        kept = arrival.visit.heap.get(directory(base.source) or "")
        if base.merged is None and isinstance(kept, Directory) and kept.merged is not None and _source(module, kept.merged) == path:
            return kept.merged
        return None

    for site in module.calls("peft.PeftModel*"):
        found = site.sometimes(merged) if site.name.endswith(".from_pretrained") else None
        if found is not None:
            yield site.finding(
                "an adapter is loaded onto a model that it has been merged into",
                related=module.related(merged(found), "merged here"),
                help="the update counts twice; use the merged model alone, or load the adapter onto the unmerged base",
            )


def _source(module: Module, merge: ir.Node) -> object:
    """Where the adapter came from that a call merged."""
    site = module.sites.get(merge.uid)
    for arrival in site.arrivals if site else ():
        receiver = arrival.receiver.source if isinstance(arrival.receiver, Derived) else arrival.receiver
        facts = arrival.facts(receiver, Peft)
        if facts is not None and facts.source is not None:
            return facts.source
    return ()
