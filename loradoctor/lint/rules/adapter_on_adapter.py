"""LD101."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Peft
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD101", Severity.ERROR, "LO1")
def adapter_on_adapter(module: Module) -> Iterator[Finding]:
    """An adapter is loaded onto a model that already has one.

    `PeftModel.from_pretrained` wraps the model it is given. When that model is a PEFT model already, the names of the loaded
    tensors no longer match (`base_model.model.base_model.model.…`), PEFT loads with `strict=False`, and nothing is filled in:
    the model answers like its base. PEFT 0.14 and later print a warning about missing keys, older versions say nothing.

    ```python
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    model = PeftModel.from_pretrained(model, "runs/last")
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(model, "runs/last", is_trainable=True)
    ```
    A second adapter beside the first is added with `model.load_adapter(path, adapter_name="second")`.
    """

    def wrapped(arrival: Arrival) -> Peft | None:
        facts = arrival.facts(arrival.arg("model"), Peft)
        return facts if facts and not facts.gutted and facts.how != "mixed" else None

    for site in module.calls("peft.PeftModel*"):
        if not site.name.endswith(".from_pretrained"):
            continue
        found = site.sometimes(wrapped)
        if not found:
            continue
        facts = wrapped(found)
        made = facts.made if facts else None
        certain = site.always(wrapped)
        yield site.finding(
            "an adapter is loaded onto a model that already has one"
            if certain
            else "an adapter is loaded onto a model that, on some paths, already has one",
            severity=Severity.ERROR if certain else Severity.WARNING,
            related=module.related(made, "this call sees its own result again" if made is site.node else "wrapped here"),
            help="none of the loaded weights will be used: the model answers like the base model; load onto the base model, with "
            "`is_trainable=True` to train on, or call `load_adapter` on the wrapped one",
        )
