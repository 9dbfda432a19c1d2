"""LD302."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Peft, Trainer
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD302", Severity.ERROR, "SV2")
def trainer_unaware_of_merge(module: Module) -> Iterator[Finding]:
    """The trainer saves its model after the adapter was merged out of it.

    The trainer still holds the PEFT wrapper. `merge_and_unload` has taken every tensor out of that wrapper, so
    `trainer.save_model` writes an adapter file without tensors, and what is loaded from there is the base model.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    trainer = Trainer(model=model)
    trainer.train()
    model = model.merge_and_unload()
    trainer.save_model("merged")
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    trainer = Trainer(model=model)
    trainer.train()
    model = model.merge_and_unload()
    model.save_pretrained("merged")
    ```
    """

    def emptied(arrival: Arrival) -> Peft | None:
        trainer = arrival.facts(arrival.receiver, Trainer)
        facts = arrival.facts(trainer.model, Peft) if trainer else None
        return facts if facts and facts.gutted else None

    for site in module.calls("save_model", "push_to_hub"):
        found = site.sometimes(emptied)
        facts = emptied(found) if found else None
        if facts is None or facts.gutted is None:
            continue
        if facts.gutted.uid in module.dropped:  # merge-result-dropped names the cause
            continue
        yield site.finding(
            f"`{site.name}` saves the wrapper that the trainer still holds, after its adapter was merged away",
            related=module.related(facts.gutted, "merged here"),
            help="an adapter without tensors is written, which loads as the base model; save the merged model itself, or set `trainer.model` to it",
        )
