"""LD326."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.values import Known
from loradoctor.lint.module import Module
from loradoctor.lint.rules.adapter_not_activated import unused
from loradoctor.rule import rule


@rule("LD326", Severity.ERROR, "MG9")
def combination_not_activated(module: Module) -> Iterator[Finding]:
    """Adapters are combined with `add_weighted_adapter`, and the combination is not activated.

    The method makes a new adapter and leaves the old one active. Outputs are the old adapter's, and `merge_and_unload` merges
    the old adapter, not the combination.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(model, "adapters/poet", adapter_name="poet")
    model.load_adapter("adapters/lawyer", adapter_name="lawyer")
    model.add_weighted_adapter(["poet", "lawyer"], [0.5, 0.5], "both", combination_type="linear")
    model = model.merge_and_unload()
    print(model.generate(max_new_tokens=20))
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(model, "adapters/poet", adapter_name="poet")
    model.load_adapter("adapters/lawyer", adapter_name="lawyer")
    model.add_weighted_adapter(["poet", "lawyer"], [0.5, 0.5], "both", combination_type="linear")
    model.set_adapter("both")
    model = model.merge_and_unload()
    print(model.generate(max_new_tokens=20))
    ```
    """
    reported: set[int] = set()
    for use in module.calls("generate", "forward", "__call__", "merge_and_unload"):
        for arrival in use.arrivals:
            for waiting in unused(arrival, "combine"):
                if waiting.site.uid in reported:
                    continue
                reported.add(waiting.site.uid)
                name = f'"{waiting.name.value}"' if isinstance(waiting.name, Known) else "the new name"
                yield module.finding(
                    waiting.site,
                    "the combination of adapters is made and never activated",
                    related=module.related(use.node, "the model is used with the adapter it had before"),
                    help=f"`add_weighted_adapter` leaves the active adapter active; call `model.set_adapter({name})` after it",
                    fix=_fix(module, waiting.site),
                )


def _fix(module: Module, call: ir.Call) -> Fix | None:
    """Activate it in a statement of its own behind the call."""
    func, statement = call.func, module.statement(call)
    written = module.sites[call.uid].argument("adapter_name")
    if written is None or not isinstance(func, ir.Attr) or not isinstance(statement, ir.Evaluate):
        return None
    receiver = module.text(func.value).removesuffix(".base_model")
    return Fix("activate the combination", (module.follow(statement, f"{receiver}.set_adapter({module.text(written.value)})"),))
