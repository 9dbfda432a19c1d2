"""LD106."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.artifacts import Artifact
from loradoctor.lint.flow import paths
from loradoctor.lint.flow.facts import Instance, Model, Peft
from loradoctor.lint.flow.values import Derived, Value
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.rule import rule


@rule("LD106", Severity.ERROR, "LO5")
def pickle_against_state_dict(module: Module) -> Iterator[Finding]:
    """A whole model is pickled, and read back as if it were a state dict.

    `torch.save(model, path)` stores the object; `load_state_dict(torch.load(path))` wants a dictionary of tensors. Since
    torch 2.6 the load fails on the first class it meets; before that, `load_state_dict` fails with "Expected state_dict to be
    dict-like". The same goes for `torch.load(model, path)`: it takes a file, not a model.

    ```python
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    torch.save(model, "model.pt")
    model.load_state_dict(torch.load("model.pt"))
    ```
    What to write instead:
    ```python
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    torch.save(model.state_dict(), "model.pt")
    model.load_state_dict(torch.load("model.pt"))
    ```
    For an adapter, `model.save_pretrained(directory)` and `PeftModel.from_pretrained(base, directory)` are shorter.
    """
    pickled = [(a.arg("f"), site) for site in module.calls("torch.save") for a in site.arrivals if _whole_model(a, "obj")]
    for site in module.calls("load_state_dict"):
        saved = next((s for a in site.arrivals for path, s in pickled if _same_file(a, path)), None)
        if saved is not None:
            yield site.finding(
                "`load_state_dict` is given a file that holds a whole pickled model, not a state dict",
                related=module.related(saved.node, "the whole model is saved here"),
                help="loading fails; save `model.state_dict()` here and there, or use `save_pretrained` and `PeftModel.from_pretrained`",
            )
            continue
        found = next((f for a in site.arrivals if (f := _neighbour(a)) is not None), None)
        if found is not None:
            yield site.finding(
                "`load_state_dict` is given a file that holds a whole pickled model, not a state dict",
                severity=Severity.WARNING if found.assumed else None,
                related=module.related(found.node, "the whole model is saved here"),
                help="loading fails; save `model.state_dict()` there, or use `save_pretrained` and `PeftModel.from_pretrained`",
            )
    for site in module.calls("torch.load"):
        if _takes_model(site):
            yield site.finding(
                "`torch.load` is given a model where it expects a file",
                help="`torch.load(path)` returns what was saved; load a state dict with `model.load_state_dict(torch.load(path))`",
            )


def _whole_model(arrival: Arrival, name: str) -> bool:
    value = arrival.arg(name)
    if arrival.facts(value, Peft) or arrival.facts(value, Model):
        return True
    instance = arrival.facts(value, Instance)
    return instance is not None and instance.cls.startswith("torch.nn.")


def _takes_model(site: Site) -> bool:
    return site.sometimes(lambda a: _whole_model(a, "f")) is not None


def _same_file(arrival: Arrival, path: Value | None) -> bool:
    weights = arrival.arg("state_dict")
    return isinstance(weights, Derived) and weights.kind == "torch.load" and paths.same(weights.source, path)


def _neighbour(arrival: Arrival) -> Artifact | None:
    """The whole model that a neighbouring script has pickled into the file that is loaded."""
    weights, module = arrival.arg("state_dict"), arrival.module
    if not isinstance(weights, Derived) or weights.kind != "torch.load" or module.writes(weights.source):
        return None
    found = module.elsewhere(weights.source, several=True)
    return found if found is not None and found.kind == "pickle" else None
