"""LD301."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Model, Peft, Trainer
from loradoctor.lint.flow.values import Derived, Value
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.lint.syntax import nodes
from loradoctor.rule import rule


@rule("LD301", Severity.ERROR, "SV1")
def merge_result_dropped(module: Module) -> Iterator[Finding]:
    """The merged model that `merge_and_unload` returns is dropped, and the empty PEFT wrapper is saved.

    `merge_and_unload` takes the adapter out of the wrapper and returns the merged base model. The wrapper is left without
    tensors: saving it writes an adapter file of 40 bytes, and what is loaded from there is the base model. In memory the
    outputs stay right, so a quick test passes.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "runs/last")
    model.merge_and_unload()
    model.save_pretrained("merged")
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "runs/last")
    model = model.merge_and_unload()
    model.save_pretrained("merged")
    ```
    """
    for site in module.calls("merge_and_unload", "unload"):
        arrivals = [a for a in site.arrivals if _wrapper(a) is not None]
        if not arrivals or not _is_dropped(module, site):
            continue
        saved = _saved_empty(module, site) or _handed_out(module, arrivals)
        if saved is None and (site.name == "unload" or _base_saved(module, site) or _taken_out(module, site)):
            continue  # what `unload` is for is the base, which is free of the adapter again
        used = saved is None and _only_used(module, site)
        name = site.receiver_name
        edit = (module.insert(site.node, f"{name} = "),) if name and site.dropped else ()
        yield site.finding(
            f"the merged model that `{site.name}` returns is dropped, and the emptied wrapper is kept"
            if saved
            else f"the merged model that `{site.name}` returns is dropped",
            severity=Severity.ERROR if saved else Severity.INFO if used else Severity.WARNING,
            related=module.related(saved, "the emptied wrapper goes on from here"),
            help="what is saved from the wrapper holds no tensor and loads as the base model; assign the result"
            + (f": `{name} = {name}.{site.name}()`" if name else ""),
            fix=Fix("assign the result", edit) if edit else None,
        )
    yield from _emptied_saves(module)


def _emptied_saves(module: Module) -> Iterator[Finding]:
    """Saves of a wrapper whose merged model went to another name."""
    for save in module.calls("save_pretrained", "push_to_hub"):
        for arrival in save.arrivals:
            facts = arrival.facts(arrival.receiver, Peft)
            if facts and isinstance(facts.gutted, ir.Call) and not _is_dropped(module, module.sites[facts.gutted.uid]):
                yield save.finding(
                    "the emptied wrapper is saved instead of the merged model",
                    related=module.related(facts.gutted, "the merged model is what this returns"),
                    help="the wrapper holds no tensor any more and what is written loads as the base model; save the merged model",
                )
                break


def _handed_out(module: Module, arrivals: list[Arrival]) -> ir.Node | None:
    """Where the emptied wrapper is returned to code that is out of sight."""
    return next((places[0] for a in arrivals if (places := module.happened("returned", a.oid(_wrapper(a))))), None)


def _wrapper(arrival: Arrival) -> Value | None:
    receiver = arrival.receiver
    if isinstance(receiver, Derived) and receiver.kind == "tuner":
        receiver = receiver.source
    facts = arrival.facts(receiver, Peft)
    if facts is not None:
        return receiver if not facts.gutted else None
    unseen = arrival.facts(receiver, Model) is None and "peft" in arrival.module.imports
    return receiver if unseen and arrival.visit.name == "merge_and_unload" else None


def _is_dropped(module: Module, site: Site) -> bool:
    """A statement of its own, or assigned to a name that nothing reads."""
    return site.dropped or module.assigned_in_vain(site.node)


def _gutted_by(arrival: Arrival, value: Value | None, site: Site) -> bool:
    if isinstance(value, Derived) and value.kind == "tuner":
        value = value.source
    facts = arrival.facts(value, Peft)
    return facts is not None and facts.gutted is site.node


def _saved_empty(module: Module, site: Site) -> ir.Node | None:
    for save in module.calls("save_pretrained", "push_to_hub"):
        if any(_gutted_by(a, a.receiver, site) for a in save.arrivals):
            return save.node
    for save in module.calls("save_model"):
        for a in save.arrivals:
            trainer = a.facts(a.receiver, Trainer)
            if trainer and _gutted_by(a, trainer.model, site):
                return save.node
    return None


def _base_saved(module: Module, site: Site) -> bool:
    """Whether the merged base is saved, or handed to unseen code, under another name."""
    for save in module.calls("save_pretrained", "push_to_hub", "torch.save", "save_model"):
        if _of_tuner(site) and _of_tuner(save):  # the tuner passes the call on to the model that it has merged in place
            return True
        for a in save.arrivals:
            target = a.receiver if save.name != "torch.save" else a.arg("obj")
            target = target.source if isinstance(target, Derived) and target.kind == "state_dict" else target
            facts = a.facts(target, Model)
            if facts and facts.merged is site.node:
                return True
    return False


def _taken_out(module: Module, site: Site) -> bool:
    """Whether the model in the wrapper, which is merged in place, is reached for by its name afterwards."""
    func = site.node.func
    if not isinstance(func, ir.Attr):
        return False
    start, _ = module.span(site.node)
    inner = (n for n in nodes(module) if isinstance(n, ir.Attr) and n.name in ("model", "base_model", "get_base_model"))
    wrapper = module.text(func.value)
    return any(module.span(n)[0] > start and module.text(n.value) == wrapper for n in inner)


def _of_tuner(site: Site) -> bool:
    """Whether a method of `….base_model` is called."""
    func = site.node.func
    return isinstance(func, ir.Attr) and isinstance(func.value, ir.Attr) and func.value.name == "base_model"


def _only_used(module: Module, site: Site) -> bool:
    """Whether the emptied wrapper answers afterwards, with the merged weights, or takes a new adapter on top of them."""
    uses = module.calls("generate", "forward", "__call__", "add_adapter", "load_adapter")
    return any(_gutted_by(a, a.receiver, site) for use in uses for a in use.arrivals)
