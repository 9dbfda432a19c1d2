"""LD309."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import history, ir
from loradoctor.lint.flow.facts import Config, Peft, Trainer
from loradoctor.lint.flow.values import Known, Value
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD309", Severity.WARNING, "SV11")
def untrained_adapter_saved(module: Module) -> Iterator[Finding]:
    """An adapter is saved that nothing in the program has trained.

    A fresh LoRA adapter adds exactly nothing: its `lora_B` is zero. When a trainer is built but `train()` is never called,
    or the training cell was deleted, what is saved loads without complaint and is the base model.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    trainer = Trainer(model=model)
    model.save_pretrained("adapter")
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    trainer = Trainer(model=model)
    trainer.train()
    model.save_pretrained("adapter")
    ```
    """
    if not module.program.words.isdisjoint(("backward", "step", "train_step", "training_step")) or module.left_out(".train("):
        return
    failed = [site.node for site in module.calls("train") if module.ran(site.node) is False]
    trained = {
        trainer.model
        for site in module.calls("train")
        for a in site.arrivals
        if site.node not in failed and (trainer := a.facts(a.receiver, Trainer)) is not None
    }
    for site in module.calls("save_pretrained", "push_to_hub", "save_model"):
        for arrival in site.arrivals:
            wrapper = _saved(arrival)
            if wrapper is None or wrapper in trained or not _fresh(module, arrival, wrapper, failed):
                continue
            facts = arrival.facts(wrapper, Peft)
            made = module.related(facts.made if facts else None, "the adapter is made here, and adds nothing yet")
            if failed and module.ran(site.node):
                yield site.finding(
                    "an adapter is saved although its training failed: the notebook keeps the exception",
                    related=(*made, *module.related(failed[0], "this cell's stored output ends in an exception")),
                    help="what was saved is the fresh adapter, which changes nothing; repair the training cell and run both again",
                )
                break
            trainer_made = _idle_trainer(module, wrapper)
            if trainer_made is None or failed:
                continue
            yield site.finding(
                "an adapter is saved that was never trained: `train()` is not called on its trainer",
                related=(
                    *made,
                    *module.related(trainer_made, "this trainer never runs"),
                ),
                help="the file loads without complaint and changes nothing; call `trainer.train()` before saving",
            )
            break
    yield from _saved_too_early(module)


def _saved_too_early(module: Module) -> Iterator[Finding]:
    """Saves of a notebook that all ran before the training above them ran last: the execution counts say so."""
    if module.source.kind != "notebook":
        return
    saves = [(site, {w for a in site.arrivals if (w := _saved(a))}) for site in module.calls("save_pretrained", "push_to_hub", "save_model")]
    for site in module.calls("train"):
        trained = {trainer.model for a in site.arrivals if (trainer := a.facts(a.receiver, Trainer)) is not None}
        saved = [save for save, wrappers in saves if not wrappers.isdisjoint(trained)]
        if saved and all(history.trained_after(module, save.node, site.node) for save in saved):
            yield saved[0].finding(
                "an adapter is saved before its training: the notebook's execution counts say so",
                related=module.related(site.node, "this training ran later than the save below it"),
                help="what was saved is not what the last training made; run the saving cell again",
            )


def _saved(arrival: Arrival) -> Value | None:
    trainer = arrival.facts(arrival.receiver, Trainer)
    value = trainer.model if trainer else arrival.receiver
    return value if arrival.facts(value, Peft) else None


def _fresh(module: Module, arrival: Arrival, wrapper: Value, failed: list[ir.Call]) -> bool:
    facts = arrival.facts(wrapper, Peft)
    if facts is None or facts.how != "get_peft_model" or facts.touched or facts.filled or facts.gutted:
        return False
    config = arrival.facts(facts.config, Config)
    ready_made = config is None or config.get("init_lora_weights") not in (None, Known(True))  # noqa: FBT003
    changed = [node for kind in ("trained", "filled", "touched") for node in module.happened(kind, arrival.oid(wrapper))]
    return not ready_made and all(node in failed for node in changed)


def _idle_trainer(module: Module, wrapper: Value) -> ir.Node | None:
    for site in module.calls("transformers.*", "trl.*"):
        if site.name.endswith("Trainer") and any(a.arg("model") == wrapper for a in site.arrivals):
            return site.node
    return None
