"""LD223."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint.flow.facts import Config, Peft, Trainer
from loradoctor.lint.flow.values import NONE, Known, Ref
from loradoctor.lint.module import Arrival, Module, literal
from loradoctor.rule import rule


@rule("LD223", Severity.ERROR, "TR14", "TR15")
def no_labels(module: Module) -> Iterator[Finding]:
    """The trainer gets data without labels, or cannot tell which column they are.

    A causal model returns a loss only if it is given `labels`. Tokenizing alone makes none, and the trainer's own collator adds
    none: training stops with "The model did not return a loss from the inputs". A PEFT model without a task type hides the
    model's signature, and transformers before 4.55 then finds no label column and reports no `eval_loss`.

    ```python
    from datasets import load_dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

    tokenizer = AutoTokenizer.from_pretrained("gpt2")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    rows = load_dataset("Abirate/english_quotes", split="train").map(lambda row: tokenizer(row["quote"]))
    Trainer(model=model, train_dataset=rows).train()
    ```
    What to write instead:
    ```python
    from datasets import load_dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling, Trainer

    tokenizer = AutoTokenizer.from_pretrained("gpt2")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    rows = load_dataset("Abirate/english_quotes", split="train").map(lambda row: tokenizer(row["quote"]))
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    Trainer(model=model, train_dataset=rows, data_collator=collator).train()
    ```
    """
    if module.is_test:
        return
    yield from _missing(module)
    if module.before("transformers", "4.55"):
        yield from _hidden(module)


def _missing(module: Module) -> Iterator[Finding]:
    """Rows that this file tokenizes, where nothing in the file speaks of labels."""
    words = module.program.words
    if "label" in module.source.text.lower() or not {"load_dataset", "map"} <= words or module.others:
        return

    def bare(arrival: Arrival) -> bool:
        trainer = arrival.facts(arrival.receiver, Trainer)
        made = arrival.maker(arrival.receiver)
        base = arrival.base(trainer.model) if trainer else None
        if trainer is None or made is None or base is None or made.visit.binding.open:
            return False
        collator = made.arg("data_collator")
        plain = collator in (None, NONE) or (isinstance(collator, Ref) and collator.name == "transformers.default_data_collator")
        causal = base[1].cls.endswith(("ForCausalLM", "LMHeadModel")) and base[1].cls.startswith("transformers.")
        return trainer.cls == "transformers.Trainer" and plain and causal and made.arg("train_dataset") not in (None, NONE)

    tokenized = "AutoTokenizer" in words and "Dataset" not in words
    for site in module.calls("train") if tokenized and "compute_loss" not in words else ():
        if site.sometimes(bare) and site.always(bare):
            yield site.finding(
                "a causal model is trained on data without labels",
                help='the trainer stops with "The model did not return a loss"; '
                "pass `data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False)`",
            )


def _hidden(module: Module) -> Iterator[Finding]:
    """A PEFT model without a task type, from which these versions cannot read the label column."""

    def hidden(arrival: Arrival) -> Config | None:
        facts = arrival.facts(arrival.arg("model"), Peft)
        config = arrival.facts(facts.config, Config) if facts else None
        settings = arrival.maker(arrival.arg("args"))
        if config is None or settings is None or not config.complete or config.loaded_from is not None:
            return None
        best = literal(settings.arg("load_best_model_at_end")) is True and settings.arg("label_names") is None
        return config if best and config.get("task_type") in (None, NONE, Known("")) else None

    for site in module.calls("transformers.Trainer", "transformers.Seq2SeqTrainer"):
        found = site.sometimes(hidden)
        config = hidden(found) if found else None
        settings = found.maker(found.arg("args")) if found else None
        if config is None or settings is None or settings.visit.binding.open:
            continue
        edit = module.add_argument(settings.visit.node, 'label_names=["labels"]')
        yield site.finding(
            "the best model is to be kept, and without a task type no `eval_loss` is reported",
            related=module.related(config.made, "no `task_type` is set here"),
            help='pass `label_names=["labels"]` to the training arguments, or set the `task_type`',
            fix=Fix('pass `label_names=["labels"]`', (edit,)),
        )
