"""LD323."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Config, Peft
from loradoctor.lint.flow.values import NONE, Derived
from loradoctor.lint.libraries.peft import PROMPT_CONFIGS
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_NOT_IN_WEIGHTS = PROMPT_CONFIGS | {"peft.AdaptionPromptConfig"}


@rule("LD323", Severity.ERROR, "MG5")
def merge_unsupported(module: Module) -> Iterator[Finding]:
    """An adapter is merged that cannot be merged.

    Prompt tuning, prefix tuning and the other prompt methods learn inputs, not weights: there is nothing to add to the base,
    and `merge_and_unload` ends in `AttributeError: … has no attribute 'merge_and_unload'`. An activated LoRA
    (aLoRA) cannot be merged either: it acts on some tokens only.

    ```python
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8))
    Trainer(model=model).train()
    model = model.merge_and_unload()
    ```
    What to write instead:
    ```python
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8))
    Trainer(model=model).train()
    model.save_pretrained("runs/prompt")
    ```
    """

    def refused(arrival: Arrival) -> tuple[Config, str] | None:
        receiver = arrival.receiver
        if isinstance(receiver, Derived) and receiver.kind == "tuner":
            receiver = receiver.source
        facts = arrival.facts(receiver, Peft)
        config = arrival.facts(facts.config, Config) if facts and not facts.touched else None
        if config is None:
            return None
        if config.cls in _NOT_IN_WEIGHTS:
            return config, f"an adapter of `{config.cls.partition('.')[2]}` has no weights to merge"
        if arrival.visit.name == "unload" or config.cls != "peft.LoraConfig":
            return None
        if _given(config, "alora_invocation_tokens"):
            return config, "an activated LoRA cannot be merged"
        return None

    for site in module.calls("merge_and_unload", "merge_adapter", "unload"):
        found = site.sometimes(refused)
        told = refused(found) if found else None
        if told is not None:
            config, message = told
            yield site.finding(
                message,
                related=module.related(config.made, "the method is chosen here"),
                help=f"`{site.name}` raises an error; keep base and adapter apart: save the PEFT model and load it with `PeftModel.from_pretrained`",
            )


def _given(config: Config, field: str) -> bool:
    value = config.get(field)
    return value is not None and value != NONE
