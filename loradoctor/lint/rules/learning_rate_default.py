"""LD221."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Peft, Trainer
from loradoctor.lint.flow.values import NONE
from loradoctor.lint.module import Module
from loradoctor.rule import rule


@rule("LD221", Severity.INFO, "TR9")
def learning_rate_default(module: Module) -> Iterator[Finding]:
    """An adapter is trained with the default learning rate, which is meant for full fine-tuning.

    `TrainingArguments` defaults to 5e-5 and `SFTConfig` to 2e-5. An adapter begins at zero and has few weights to move: it wants
    about ten times as much. With the default, the loss falls slowly and the result stays close to the base model.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    Trainer(model=model, args=TrainingArguments("runs")).train()
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    Trainer(model=model, args=TrainingArguments("runs", learning_rate=2e-4)).train()
    ```
    """
    if module.is_test or any(s.name == "learning_rate" for s in module.stores):
        return
    reported: set[int] = set()
    for site in module.calls("train"):
        for arrival in site.arrivals:
            trainer = arrival.facts(arrival.receiver, Trainer)
            facts = arrival.facts(trainer.model, Peft) if trainer else None
            made = arrival.maker(arrival.receiver)
            settings = made.maker(made.arg("args")) if made else None
            if facts is None or made is None or settings is None or facts.prompt or facts.gutted or facts.source is not None:
                continue
            own = made.arg("optimizers") not in (None, NONE) or settings.arg("learning_rate") is not None
            sft = settings.visit.name == "trl.SFTConfig"
            usual = settings.visit.name in ("transformers.TrainingArguments", "transformers.Seq2SeqTrainingArguments") or sft
            if own or not usual or settings.visit.node.uid in reported:
                continue
            reported.add(settings.visit.node.uid)
            yield module.finding(
                settings.visit.node,
                f"an adapter is trained with the default learning rate of {'2e-5' if sft else '5e-5'}",
                related=module.related(facts.made, "the adapter goes in here"),
                help="adapters want about ten times the rate of full fine-tuning; pass `learning_rate=2e-4` or so",
            )
