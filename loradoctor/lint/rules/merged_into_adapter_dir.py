"""LD304."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Directory, Model, Peft, Trainer
from loradoctor.lint.flow.values import Known, Template, Unknown
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
                    related=module.related(found[0], found[1]),
                    help="`adapter_config.json` stays beside the merged weights, so loading the directory applies the adapter twice; "
                    "save the merged model to a directory of its own",
                )
                break


def _merged_over_adapter(arrival: Arrival) -> tuple[ir.Node, str] | None:
    facts = arrival.facts(arrival.receiver, Model)
    path = arrival.arg("save_directory")
    if not facts or not facts.merged or not isinstance(path, (Known, Template, Unknown)):
        return None
    held = arrival.visit.heap.get(directory(path) or "")
    return (held.adapter, "the adapter is in that directory") if isinstance(held, Directory) and held.adapter else None


def _adapter_over_merged(arrival: Arrival) -> tuple[ir.Node, str] | None:
    trainer = arrival.facts(arrival.receiver, Trainer)
    peft = arrival.facts(trainer.model if trainer else arrival.receiver, Peft)
    if peft is None or peft.gutted:
        return None
    path = (arrival.arg("output_dir") or trainer.output) if trainer else arrival.arg("save_directory")
    held = arrival.visit.heap.get(directory(path) or "")
    return (held.merged, "the model saved there was merged here") if isinstance(held, Directory) and held.merged else None
