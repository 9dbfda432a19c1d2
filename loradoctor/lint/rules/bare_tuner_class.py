"""LD214."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Model
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD214", Severity.WARNING, "TR18")
def bare_tuner_class(module: Module) -> Iterator[Finding]:
    """A tuner class is used in place of `get_peft_model`, or an injected model is saved: no adapter gets saved.

    `LoraModel` and its like only put the layers in. They have no `save_pretrained` of their own: the call falls through to the
    base model and writes all of it, with LoRA layers inside that nothing can load. The same happens to a model that went
    through `inject_adapter_in_model`.

    ```python
    from peft import LoraConfig, LoraModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    config = LoraConfig(target_modules=["c_attn"])
    model = LoraModel(base, config, "default")
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    config = LoraConfig(target_modules=["c_attn"])
    model = get_peft_model(base, config)
    ```
    After `inject_adapter_in_model`, save what `get_peft_model_state_dict(model)` gives.
    """
    if "get_peft_model_state_dict" in module.program.words or module.is_test:
        return
    for site in module.calls("peft.*"):
        name = site.name.partition(".")[2]
        func = site.node.func
        direct = not (isinstance(func, ir.Attr) and func.name == "__init__")
        direct = direct and name.endswith("Model") and not name.startswith(("Peft", "AutoPeft")) and not _in_tuner(module, site.node)
        if direct and len(site.node.args) >= 2:
            yield site.finding(
                f"`{name}` is made directly",
                help="it cannot save an adapter: `save_pretrained` writes the whole base model with the layers inside; "
                "use `get_peft_model(model, config)`",
            )

    yield from _injected(module)


def _in_tuner(module: Module, node: ir.Node) -> bool:
    """Whether a call stands in a tuner class, which may build on another one."""
    start, end = module.span(node)
    classes = [s for s in module.program.body if isinstance(s, ir.Class) and any("Tuner" in module.text(b) for b in s.bases)]
    return any(module.span(c)[0] <= start and end <= module.span(c)[1] for c in classes)


def _injected(module: Module) -> Iterator[Finding]:
    """Models that went through `inject_adapter_in_model` and are saved whole."""

    def injected(arrival: Arrival) -> ir.Node | None:
        facts = arrival.facts(arrival.receiver, Model)
        made = module.sites.get(facts.native.uid) if facts and facts.native else None
        return made.node if made and made.name == "peft.inject_adapter_in_model" else None

    for site in module.calls("save_pretrained", "push_to_hub"):
        found = site.sometimes(injected)
        if found is not None:
            yield site.finding(
                "a model with injected layers is saved as a whole",
                related=module.related(injected(found), "the layers are injected here"),
                help="this writes the base model with the layers inside and no adapter; "
                "save `get_peft_model_state_dict(model)`, or use `get_peft_model`",
            )
