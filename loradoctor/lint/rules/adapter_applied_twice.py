"""LD322."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow import paths
from loradoctor.lint.flow.facts import Model, Peft
from loradoctor.lint.flow.values import Derived, Known, Template, Unknown, Value
from loradoctor.lint.module import Arrival, Module, Site
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

    def merged(arrival: Arrival) -> tuple[ir.Node, bool] | None:
        base, path = arrival.facts(arrival.arg("model"), Model), arrival.arg("model_id")
        if base is None or base.touched or not isinstance(path, (Known, Template, Unknown)) or arrival.arg("subfolder") is not None:
            return None
        if base.merged is not None:
            return (base.merged, False) if paths.same(base.merged_source, path) else None
        kept = arrival.kept(base.source)
        site = module.site(kept.merged) if kept is not None else None
        if kept is None or kept.merged is None or site is None:
            return None
        source = _source(site)
        if site.module is module:
            return (kept.merged, False) if paths.same(source, path) else None
        there, here = paths.place(source, site.module.trace.defaults), paths.place(path, module.trace.defaults)
        same = there is not None and here is not None and there.text == here.text
        return (kept.merged, kept.assumed or there.assumed or here.assumed) if there and here and same else None

    for site in module.calls("peft.PeftModel*"):
        found = site.sometimes(merged) if site.name.endswith(".from_pretrained") else None
        told = merged(found) if found is not None else None
        if told is not None:
            yield site.finding(
                "an adapter is loaded onto a model that it has been merged into",
                severity=Severity.WARNING if told[1] else None,
                related=module.related(told[0], "merged here"),
                help="the update counts twice; use the merged model alone, or load the adapter onto the unmerged base",
            )


def _source(merge: Site) -> Value | None:
    """Where the adapter came from that a call merged."""
    for arrival in merge.arrivals:
        receiver = arrival.receiver.source if isinstance(arrival.receiver, Derived) else arrival.receiver
        facts = arrival.facts(receiver, Peft)
        if facts is not None and facts.source is not None:
            return facts.source
    return None
