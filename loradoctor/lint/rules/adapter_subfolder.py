"""LD111."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint.flow import paths
from loradoctor.lint.flow.facts import Peft, Trainer
from loradoctor.lint.flow.values import Derived, Known, Value
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.rule import rule


@rule("LD111", Severity.ERROR, "LO10")
def adapter_subfolder(module: Module) -> Iterator[Finding]:
    """An adapter with a name of its own is looked for where only a `default` adapter would be.

    `save_pretrained` writes the adapter called `default` into the directory itself and every other one into a folder of its
    name inside. Loading the directory then ends with `Can't find 'adapter_config.json'`.

    ```python
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(model, LoraConfig(r=8, task_type="CAUSAL_LM"), adapter_name="poet")
    Trainer(model=model).train()
    model.save_pretrained("adapters")

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    again = PeftModel.from_pretrained(base, "adapters")
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(model, LoraConfig(r=8, task_type="CAUSAL_LM"), adapter_name="poet")
    Trainer(model=model).train()
    model.save_pretrained("adapters")

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    again = PeftModel.from_pretrained(base, "adapters", subfolder="poet")
    ```
    """
    for site in module.calls("peft.PeftModel*", "peft.AutoPeftModel*", "load_adapter"):
        found = site.sometimes(lambda a: _names(module, a))
        if found is None:
            continue
        names = _names(module, found)
        kept = found.kept(found.arg("model_id"))
        auto = site.name.startswith("peft.Auto")  # which hands `subfolder` on to the base model as well
        fix = Fix(f'pass `subfolder="{names[0]}"`', (module.add_argument(site.node, f'subfolder="{names[0]}"'),))
        yield site.finding(
            f"the adapter is loaded from the directory above its own: it was saved as `{names[0]}`",
            severity=Severity.WARNING if kept and kept.assumed else None,
            related=module.related(kept.adapter if kept else None, f"saved here into the folder `{names[0]}`"),
            help="only the adapter `default` is saved into the directory itself: `Can't find 'adapter_config.json'`; "
            + (f"load the folder `{names[0]}` in it" if auto else f'pass `subfolder="{names[0]}"`'),
            fix=fix if len(names) == 1 and not auto and not any(a.star for a in site.node.args) else None,
        )


def _names(module: Module, arrival: Arrival) -> list[str]:
    """The adapters saved to the directory that is loaded, when none of them is `default`."""
    path = arrival.arg("model_id")
    kept = arrival.kept(path) if arrival.arg("subfolder") is None else None
    save = module.site(kept.adapter) if kept is not None else None
    if save is None or save.name not in ("save_pretrained", "save_model") or _loaded_before(path, save):
        return []
    names: list[str] = []
    for each in save.arrivals:
        facts = each.facts(_saved(each), Peft)
        if facts is None or facts.touched or each.arg("selected_adapters") is not None:
            return []
        for name in facts.adapters:
            if not isinstance(name, Known) or not isinstance(name.value, str) or name.value == "default":
                return []
            names += [] if name.value in names else [name.value]
    return names


def _saved(arrival: Arrival) -> Value | None:
    trainer = arrival.facts(arrival.receiver, Trainer)
    if trainer is not None:
        return trainer.model
    return arrival.receiver.source if isinstance(arrival.receiver, Derived) else arrival.receiver


def _loaded_before(path: Value | None, save: Site) -> bool:
    """Whether an adapter was loaded from the directory before, so that it holds one."""
    first = save.arrivals[0].visit.step
    loads = save.module.calls("peft.PeftModel*", "peft.AutoPeftModel*", "load_adapter")
    return any(paths.same(a.arg("model_id"), path) and a.visit.step < first for site in loads for a in site.arrivals)
