"""LD209."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint.flow.facts import Config, Model, Peft
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD209", Severity.ERROR, "TR12")
def peft_config_twice(module: Module) -> Iterator[Finding]:
    """A TRL trainer is given a model that is wrapped already and a `peft_config` to wrap it with.

    What happens depends on the version: TRL 0.27 and later refuse ("You passed a PeftModel instance together with a
    peft_config"), 0.22 to 0.24 merge the first adapter into the base, 0.20 and 0.21 nest the two, older ones ignore the
    config. One of the two has to go.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from trl import SFTTrainer

    config = LoraConfig(task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), config)
    trainer = SFTTrainer(model=model, peft_config=config)
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from trl import SFTTrainer

    config = LoraConfig(task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), config)
    trainer = SFTTrainer(model=model)
    ```
    """

    def configured(arrival: Arrival) -> bool:
        return arrival.facts(arrival.arg("peft_config"), Config) is not None

    def wrapped(arrival: Arrival) -> Peft | None:
        facts = arrival.facts(arrival.arg("model"), Peft)
        return facts if facts and not facts.gutted and configured(arrival) else None

    def occupied(arrival: Arrival) -> Model | None:
        facts = arrival.facts(arrival.arg("model"), Model)
        return facts if facts and facts.carries_adapter and facts.injected_by == "get_peft_model" and configured(arrival) else None

    for site in module.calls("trl.*"):
        if not site.name.endswith("Trainer"):
            continue
        argument = site.argument("peft_config")
        if found := site.sometimes(wrapped):
            facts = wrapped(found)
            frozen = facts is not None and facts.trainable is False and facts.how in ("from_pretrained", "auto")
            edits = (module.remove_argument(site.node, argument),) if argument in site.node.args and argument and not frozen else ()
            yield site.finding(
                "the trainer is given a PEFT model and a `peft_config`",
                severity=Severity.ERROR if site.always(wrapped) else Severity.WARNING,
                related=module.related(facts.made if facts else None, "wrapped here"),
                help="TRL refuses this, or nests, merges or ignores one of the two, depending on its version; drop `peft_config`"
                + (" and load with `is_trainable=True`" if frozen else "")
                + ", or pass the base",
                fix=Fix("drop `peft_config`", edits) if edits else None,
            )
        elif found := site.sometimes(occupied):
            base = occupied(found)
            yield site.finding(
                "the trainer is to wrap a base model that `get_peft_model` has already put an adapter into",
                severity=Severity.WARNING,
                related=module.related(base.injected if base else None, "the first adapter goes in here, in place"),
                help="the same layers are wrapped by two PEFT models; pass what `get_peft_model` returned and no `peft_config`, or drop "
                "the call to `get_peft_model`",
            )
