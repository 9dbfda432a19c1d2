"""LD115."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Peft
from loradoctor.lint.flow.values import Items
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.rule import rule


@rule("LD115", Severity.ERROR, "MA2")
def set_adapter_list(module: Module) -> Iterator[Finding]:
    """`PeftModel.set_adapter` is given several adapters at once.

    It takes one name: a list ends in `TypeError: unhashable type: 'list'`, a tuple in `ValueError`. The tuner inside, a
    `PeftMixedModel` and the models of transformers take lists.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(model, "adapters/poet", adapter_name="poet")
    model.load_adapter("adapters/lawyer", adapter_name="lawyer")
    model.set_adapter(["poet", "lawyer"])
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(model, "adapters/poet", adapter_name="poet")
    model.load_adapter("adapters/lawyer", adapter_name="lawyer")
    model.base_model.set_adapter(["poet", "lawyer"])
    ```
    """

    def several(arrival: Arrival) -> bool:
        facts = arrival.facts(arrival.receiver, Peft)
        known = facts is not None and facts.how not in ("mixed", "unseen") and not facts.touched
        return known and isinstance(arrival.arg("adapter_name"), Items)

    for site in module.calls("set_adapter"):
        if site.sometimes(several):
            yield site.finding(
                "`set_adapter` of a PEFT model is given several adapters",
                help="it takes one name and raises `TypeError`; `model.base_model.set_adapter([…])` activates several",
                fix=_fix(module, site),
            )


def _fix(module: Module, site: Site) -> Fix | None:
    func = site.node.func
    if not isinstance(func, ir.Attr):
        return None
    _, end = module.span(func.value)
    return Fix("call it on `base_model`", (module.source.edit(end, end, ".base_model"),))
