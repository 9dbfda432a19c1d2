"""LD304."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Model, Peft, Trainer
from loradoctor.lint.flow.values import Known, Template, Unknown, Value
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
    adapters = _adapter_directories(module)
    for site in module.calls("save_pretrained"):
        for arrival in site.arrivals:
            facts = arrival.facts(arrival.receiver, Model)
            path = arrival.arg("save_directory")
            if not facts or not facts.merged or not isinstance(path, (Known, Template, Unknown)):
                continue
            origin = facts.merged if facts.merged_from == path else None
            place = origin or adapters.get(path)
            if place is not None:
                yield site.finding(
                    "the merged model is saved into the adapter's own directory",
                    related=module.related(place, "merged from the adapter in that directory" if origin else "the adapter is saved there"),
                    help="`adapter_config.json` stays beside the merged weights, so loading the directory applies the adapter twice; "
                    "save the merged model to a directory of its own",
                )
                break


def _adapter_directories(module: Module) -> dict[Value, ir.Node]:
    places: dict[Value, ir.Node] = {}
    for site in module.calls("save_pretrained", "save_model"):
        for arrival in site.arrivals:
            path = _written(arrival)
            if path is not None:
                places.setdefault(path, site.node)
    return places


def _written(arrival: Arrival) -> Value | None:
    """Where this call saves an adapter, if it does."""
    peft = arrival.facts(arrival.receiver, Peft)
    if peft is not None:
        return arrival.arg("save_directory") if not peft.gutted else None
    trainer = arrival.facts(arrival.receiver, Trainer)
    inner = arrival.facts(trainer.model, Peft) if trainer else None
    if trainer is None or inner is None or inner.gutted:
        return None
    return arrival.arg("output_dir") or trainer.output
