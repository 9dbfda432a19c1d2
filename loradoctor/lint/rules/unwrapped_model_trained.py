"""LD201."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Model, Peft, Trainer
from loradoctor.lint.flow.values import NONE, Value
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.lint.record import replace
from loradoctor.rule import rule

_WRAPPERS = ("get_peft_model", "mixed")


@rule("LD201", Severity.ERROR, "TR1")
def unwrapped_model_trained(module: Module) -> Iterator[Finding]:
    """The trainer is given the base model, not the PEFT model around it.

    `get_peft_model` changes the base in place, so training the base trains the adapter, and the loss falls. But the trainer
    does not know of PEFT: its checkpoints hold a whole model whose layers are called `…base_layer.weight`, which neither
    `from_pretrained` nor `PeftModel.from_pretrained` can read. With prompt methods nothing is trained at all.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    lora_model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    trainer = Trainer(model=model)
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    lora_model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    trainer = Trainer(model=lora_model)
    ```
    """

    def bare(arrival: Arrival) -> Model | None:
        return _wrapped_elsewhere(arrival, arrival.arg("model"))

    trainers = [s for s in module.calls("transformers.*", "trl.*", "sentence_transformers.*") if s.name.endswith("Trainer")]
    for site in trainers:
        if site.always(lambda a: a.arg("peft_config") not in (None, NONE)):
            continue
        found = site.sometimes(bare)
        facts = bare(found) if found else None
        if facts:
            yield site.finding(
                "the trainer is given the base model instead of the PEFT model around it",
                related=module.related(facts.injected, "the adapter goes in here; its result is the model to train"),
                help="training works, but checkpoints hold `base_layer` weights that nothing can load; pass what `get_peft_model` returned",
                fix=_fix(module, site, facts),
            )
    for site in module.calls("train"):
        for arrival in site.arrivals:
            trainer = arrival.facts(arrival.receiver, Trainer)
            late = _wrapped_elsewhere(arrival, trainer.model) if trainer else None
            if trainer and late and trainer.made and not _carried_then(module, trainer, late):
                yield module.finding(
                    trainer.made,
                    "the trainer was built before the model was wrapped: it trains and saves the bare base model",
                    related=module.related(late.injected, "the adapter goes in here"),
                    help="build the trainer after `get_peft_model`, with the model it returns",
                )
                break


def _wrapped_elsewhere(arrival: Arrival, value: Value | None) -> Model | None:
    facts = arrival.facts(value, Model)
    wrapper = arrival.visit.heap.get(facts.wrapper) if facts and facts.wrapper is not None else None
    if facts and isinstance(wrapper, Peft) and wrapper.prompt and not wrapper.gutted:
        return replace(facts, injected=wrapper.made)
    return facts if facts and facts.carries_adapter and facts.injected_by in _WRAPPERS and not facts.native else None


def _carried_then(module: Module, trainer: Trainer, now: Model) -> bool:
    """Whether the adapter was in already when the trainer was built; then the first half of the rule has spoken."""
    site = module.sites.get(trainer.made.uid) if trainer.made else None
    return site is None or any(
        (facts := _wrapped_elsewhere(a, a.arg("model"))) is not None and facts.injected is now.injected for a in site.arrivals
    )


def _fix(module: Module, site: Site, facts: Model) -> Fix | None:
    """Name the wrapper instead, where it has a name of its own."""
    written = site.argument("model")
    target = next(
        (
            s.targets[0].id
            for s in module.assignments()
            if isinstance(s.value, ir.Call) and s.value is facts.injected and isinstance(s.targets[0], ir.Name)
        ),
        None,
    )
    if written is None or target is None or not isinstance(written.value, ir.Name) or written.value.id == target:
        return None
    return Fix(f"pass `{target}`", (module.replace(written.value, target),))
