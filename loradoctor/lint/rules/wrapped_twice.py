"""LD102."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Location, Related, Severity
from loradoctor.lint import history
from loradoctor.lint.flow.facts import Model, Peft
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.lint.source import Cell
from loradoctor.rule import rule


@rule("LD102", Severity.ERROR, "MA10")
def wrapped_twice(module: Module) -> Iterator[Finding]:
    """`get_peft_model` is called on a model that has been wrapped before.

    The second call nests one PEFT model in another. Training seems to work, but the saved tensors are called
    `base_model.model.base_model.model.…`, and a reload fills nothing in. In a notebook it is enough to run the wrapping cell
    twice: its execution counts and its stored output tell of that. Calling it on the base that an earlier call has changed in
    place is as risky: the layers of the first adapter are still inside.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(model, LoraConfig(r=8, task_type="CAUSAL_LM"))
    model = get_peft_model(model, LoraConfig(r=16, task_type="CAUSAL_LM"))
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(model, LoraConfig(r=8, task_type="CAUSAL_LM"))
    model.add_adapter("wide", LoraConfig(r=16, task_type="CAUSAL_LM"))
    ```
    To start over, reload the base or call `model = model.unload()` first.
    """

    def nested(arrival: Arrival) -> Peft | None:
        facts = arrival.facts(arrival.arg("model"), Peft)
        return facts if facts and not facts.gutted and facts.how != "mixed" else None

    def reused(arrival: Arrival) -> Model | None:
        facts = arrival.facts(arrival.arg("model"), Model)
        return facts if facts and facts.carries_adapter else None

    for site in module.calls("peft.get_peft_model"):
        if found := site.sometimes(nested):
            facts = nested(found)
            if facts and facts.made is site.node and _unloaded_somewhere(module, found):
                continue
            certain = site.always(nested)
            yield site.finding(
                "`get_peft_model` is called on a model that is already a PEFT model",
                severity=Severity.ERROR if certain else Severity.WARNING,
                related=module.related(facts.made if facts else None, "first wrapped here"),
                help="the adapters are nested: what is saved cannot be loaded again; add another adapter with `add_adapter`, or start "
                "from a freshly loaded base",
            )
        elif found := site.sometimes(reused):
            base = reused(found)
            again = base is not None and base.injected is site.node
            yield site.finding(
                "`get_peft_model` is called again on a base model that an earlier turn of the loop has changed in place"
                if again
                else "`get_peft_model` is called on a base model that already carries an adapter",
                severity=Severity.INFO if _is_passing_copy(module, found) else Severity.WARNING,
                related=() if again else module.related(base.injected if base else None, "the first adapter goes in here"),
                help="`get_peft_model` changes the base in place: the earlier adapter's layers stay inside; reload the base, copy it "
                "before wrapping, or call `unload()` on the first PEFT model",
            )
        else:
            yield from _ran_twice(module, site)
    for site in module.calls("peft.PeftModel*"):
        if site.name.endswith(".from_pretrained") and not site.sometimes(lambda a: nested(a) or reused(a)):
            yield from _ran_twice(module, site)


def _is_passing_copy(module: Module, arrival: Arrival) -> bool:
    """Whether the model is a copy to look at: the layers inside are copied with it, and nothing trains or saves them."""
    base, wrapper = arrival.base(arrival.arg("model")), arrival.visit.result
    if base is None or not isinstance(base[0], tuple) or base[1].made is None or base[1].made.uid == base[0][0]:
        return False
    saves = module.calls("save_pretrained", "push_to_hub")
    return not module.happened("trained", arrival.oid(wrapper)) and not any(a.receiver == wrapper for save in saves for a in save.arrivals)


def _ran_twice(module: Module, site: Site) -> Iterator[Finding]:
    """A notebook's cell that wraps a model which another cell loads."""
    cell = history.cell_of(module, site.node)
    if cell is None:
        return
    name = site.name.removeprefix("peft.")
    help_ = "load the base in the same cell, so that running it again starts from a fresh one"
    if cell.rewrapped:
        yield site.finding(
            f"`{name}` has wrapped a model a second time: the stored output of this cell shows it",
            severity=Severity.WARNING,
            help=f"the adapters are nested: what is saved cannot be loaded again; {help_}",
        )
    elif history.repeats(module, site):
        used = history.run_again(module, site)
        if used is None:
            yield site.finding(
                "running this cell again wraps the model a second time: its base is loaded in another cell",
                severity=Severity.INFO,
                help=f"the adapters would be nested, and what is saved could not be loaded again; {help_}",
            )
            return
        yield site.finding(
            "this cell has wrapped the model a second time: it ran again after cells that use the wrapped model",
            severity=Severity.WARNING,
            related=(
                Related(f"ran as number {used.execution_count}, the wrapping as number {cell.execution_count}", _place(module, used)),
            ),
            help=f"the adapters are nested: what is saved cannot be loaded again; {help_}",
        )


def _place(module: Module, cell: Cell) -> Location:
    return module.source.location(cell.start, cell.start + len(cell.source.partition("\n")[0]))


def _unloaded_somewhere(module: Module, again: Arrival) -> bool:
    """Whether the loop takes the adapter out before its next turn, be it under a condition of its own."""
    base = again.base(again.arg("model"))
    return base is not None and any(module.happened(kind, base[0]) for kind in ("unloaded", "merged"))
