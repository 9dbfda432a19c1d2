"""LD428."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint.flow.facts import Tokenizer, Trainer
from loradoctor.lint.flow.values import Known
from loradoctor.lint.libraries.vocabularies import vocabulary
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD428", Severity.ERROR, "TK9", "TK10")
def collator_misuse(module: Module) -> Iterator[Finding]:
    """Batches are made for masked language modelling, or padded by a tokenizer that has nothing to pad with.

    `DataCollatorForLanguageModeling` masks words unless `mlm=False` is passed. The tokenizer of a causal model has no mask token, and
    the collator raises; where there is one, the model learns the wrong task. Padding with a tokenizer that has no padding token
    raises "Asking to pad but the tokenizer does not have a padding token".

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling, Trainer

    tokenizer = AutoTokenizer.from_pretrained("facebook/opt-350m")
    base = AutoModelForCausalLM.from_pretrained("facebook/opt-350m")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    collator = DataCollatorForLanguageModeling(tokenizer)
    Trainer(model=model, train_dataset=rows, data_collator=collator).train()
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling, Trainer

    tokenizer = AutoTokenizer.from_pretrained("facebook/opt-350m")
    base = AutoModelForCausalLM.from_pretrained("facebook/opt-350m")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    Trainer(model=model, train_dataset=rows, data_collator=collator).train()
    ```
    """
    if module.is_test:
        return
    yield from _masking(module)
    if not any("pad_token" in word or "special_tokens" in word or "chat_format" in word for word in module.program.words):
        yield from _padding(module)


def _masking(module: Module) -> Iterator[Finding]:
    reported: set[int] = set()
    for site in module.calls("train"):
        for arrival in site.arrivals:
            trainer = arrival.facts(arrival.receiver, Trainer)
            made = arrival.maker(arrival.receiver)
            collator = made.maker(made.arg("data_collator")) if made else None
            base = arrival.base(trainer.model) if trainer else None
            if collator is None or base is None or collator.visit.name != "transformers.DataCollatorForLanguageModeling":
                continue
            masks = collator.arg("mlm") in (None, Known(True))  # noqa: FBT003
            node = collator.visit.node
            if not masks or not base[1].cls.endswith(("ForCausalLM", "LMHeadModel")) or node.uid in reported:
                continue
            reported.add(node.uid)
            plain = collator.arg("mlm") is None and not any(arg.star for arg in node.args)
            yield module.finding(
                node,
                "a causal model is trained on batches with masked words",
                related=module.related(site.node, "trained here"),
                help="the collator masks words by default, which a causal tokenizer has no token for; pass `mlm=False`",
                fix=Fix("pass `mlm=False`", (module.add_argument(node, "mlm=False"),)) if plain else None,
            )


def _padding(module: Module) -> Iterator[Finding]:
    def lacks(arrival: Arrival) -> bool:
        facts = arrival.facts(arrival.receiver, Tokenizer)
        known = vocabulary(facts.source.value) if facts is not None and isinstance(facts.source, Known) else None
        pads = arrival.arg("padding") in (Known(True), Known("max_length"), Known("longest"))  # noqa: FBT003
        return known is not None and known.unpadded and pads

    for site in module.calls("__call__"):
        found = site.sometimes(lacks)
        facts = found.facts(found.receiver, Tokenizer) if found else None
        if facts is not None:
            yield site.finding(
                "a tokenizer without a padding token is asked to pad",
                severity=Severity.ERROR if site.always(lacks) else Severity.WARNING,
                related=module.related(facts.made, "this one has none"),
                help="this raises a `ValueError`; give it one first, for example `tokenizer.pad_token = tokenizer.eos_token`",
            )
