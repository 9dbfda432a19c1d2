"""LD304."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow import paths
from loradoctor.lint.flow.facts import Directory, Model, Peft, Trainer
from loradoctor.lint.flow.values import Known, Template, Unknown, Value
from loradoctor.lint.libraries.effects import directory
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD304", Severity.ERROR, "SV5")
def merged_into_adapter_dir(module: Module) -> Iterator[Finding]:
    """The merged model is saved into the directory that holds the adapter.

    The directory then has a merged `model.safetensors` and an `adapter_config.json` beside it. `from_pretrained` sees the
    adapter, loads the merged weights as its base, and applies the adapter a second time. Nothing fails, and the model is
    neither the trained one nor the base.

    ```python
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained("runs/last")
    merged = model.merge_and_unload()
    merged.save_pretrained("runs/last")
    ```
    What to write instead:
    ```python
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained("runs/last")
    merged = model.merge_and_unload()
    merged.save_pretrained("runs/merged")
    ```
    """
    for site in module.calls("save_pretrained", "save_model"):
        for arrival in site.arrivals:
            found = _merged_over_adapter(arrival) or _adapter_over_merged(arrival)
            if found is not None:
                yield site.finding(
                    "the merged model and the adapter are saved into the same directory",
                    severity=Severity.WARNING if found[2] else None,
                    related=module.related(found[0], found[1]),
                    help="`adapter_config.json` stays beside the merged weights, so loading the directory applies the adapter twice; "
                    "save the merged model to a directory of its own",
                )
                break


Found = tuple[ir.Node, str, bool]


def _merged_over_adapter(arrival: Arrival) -> Found | None:
    facts = arrival.facts(arrival.receiver, Model)
    path = arrival.arg("save_directory")
    if not facts or not facts.merged or not isinstance(path, (Known, Template, Unknown)):
        return None
    own = arrival.visit.heap.get(directory(path) or "")
    if isinstance(own, Directory) and own.adapter:
        return own.adapter, "the adapter is in that directory", False
    return _neighbour(arrival.module, path, facts.merged_source)


def _neighbour(module: Module, path: Value, source: Value | None) -> Found | None:
    """Another script has put an adapter there, and what is merged comes from a checkpoint below: one pipeline, not two."""
    target, origin = paths.place(path, module.trace.defaults), paths.place(source, module.trace.defaults)
    if target is None or origin is None or not origin.text.startswith(f"{target.text}/") or module.writes(path) != {"merged"}:
        return None
    found = module.elsewhere(path, several=True)
    return (found.node, "the adapter is saved into that directory here", found.assumed) if found and found.kind == "adapter" else None


def _adapter_over_merged(arrival: Arrival) -> Found | None:
    trainer = arrival.facts(arrival.receiver, Trainer)
    peft = arrival.facts(trainer.model if trainer else arrival.receiver, Peft)
    if peft is None or peft.gutted:
        return None
    path = (arrival.arg("output_dir") or trainer.output) if trainer else arrival.arg("save_directory")
    held = arrival.visit.heap.get(directory(path) or "")
    return (held.merged, "the model saved there was merged here", False) if isinstance(held, Directory) and held.merged else None
