"""LD116."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Peft
from loradoctor.lint.flow.values import Derived
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD116", Severity.ERROR, "MG6")
def base_model_attribute(module: Module) -> Iterator[Finding]:
    """The `base_model` of a PEFT model is wrapped again, as if it were the plain base.

    `PeftModel.base_model` is the tuner (`LoraModel`), which still holds the adapter and adds a level to every tensor's name.
    An adapter loaded onto it fills nothing in: the result, also after `merge_and_unload`, is the base model. PEFT warns of
    missing keys since 0.14 and says nothing before.

    ```python
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    trainer = Trainer(model=model)
    trainer.train()
    trainer.save_model("runs/last")
    merged = PeftModel.from_pretrained(trainer.model.base_model, "runs/last").merge_and_unload()
    print(merged.generate(max_new_tokens=20))
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    trainer = Trainer(model=model)
    trainer.train()
    trainer.save_model("runs/last")
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("gpt2"), "runs/last").merge_and_unload()
    print(merged.generate(max_new_tokens=20))
    ```
    """

    def tuner(arrival: Arrival) -> Peft | None:
        value = arrival.arg("model")
        facts = arrival.facts(value.source, Peft) if isinstance(value, Derived) and value.kind == "tuner" else None
        return facts if facts and not facts.touched and not facts.prompt else None

    for site in module.calls("peft.get_peft_model", "peft.PeftModel*"):
        found = site.sometimes(tuner)
        facts = tuner(found) if found else None
        if facts is not None:
            yield site.finding(
                "the `base_model` of a PEFT model is wrapped as if it were the plain base",
                related=module.related(facts.made, "the PEFT model is made here"),
                help="it is the tuner with the adapter inside: what is loaded onto it has no effect; load the base model again, or add "
                "the adapter to the PEFT model with `load_adapter`",
            )
