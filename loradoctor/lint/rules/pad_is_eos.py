"""LD420."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Tokenizer
from loradoctor.lint.flow.values import Known, Oid, Unknown
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_ENDS = re.compile(r"add_eos_token\s*=\s*True|[+{]\s*[\w.]*eos_token\b(?!_id)")
"""Texts that are given an end-of-sequence token, so that there is one to learn."""


@rule("LD420", Severity.WARNING, "TK1")
def pad_is_eos(module: Module) -> Iterator[Finding]:
    """The end-of-sequence token is used for padding, and the collator keeps the model from learning it.

    `DataCollatorForLanguageModeling` takes every padding token out of the labels. If padding is the end-of-sequence token,
    that takes out the true ends of the texts as well: the model never learns to stop, and goes on until it is cut off.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling, Trainer

    tokenizer = AutoTokenizer.from_pretrained("gpt2")
    tokenizer.pad_token = tokenizer.eos_token
    rows = [tokenizer(text + tokenizer.eos_token) for text in texts]
    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    Trainer(model=model, train_dataset=rows, data_collator=collator).train()
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer

    tokenizer = AutoTokenizer.from_pretrained("gpt2")
    tokenizer.pad_token = tokenizer.eos_token
    rows = [tokenizer(text + tokenizer.eos_token) for text in texts]
    rows = [{**row, "labels": row["input_ids"]} for row in rows]
    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    collator = DataCollatorForSeq2Seq(tokenizer)
    Trainer(model=model, train_dataset=rows, data_collator=collator).train()
    ```
    """
    if module.is_test or not _ENDS.search(module.source.text):
        return
    padded = dict(_padded(module))
    for site in module.calls("transformers.DataCollatorForLanguageModeling"):

        def masks(arrival: Arrival) -> ir.Node | None:
            oid = arrival.oid(arrival.arg("tokenizer"))
            causal = arrival.arg("mlm") == Known(False)  # noqa: FBT003
            return padded.get(oid) if causal and oid is not None else None

        found = site.sometimes(masks)
        if found is not None and any(True for _ in module.calls("train")):
            yield site.finding(
                "the collator masks the end-of-sequence token, which is the padding token as well",
                related=module.related(masks(found), "padding becomes the end-of-sequence token here"),
                help="the model never learns to stop; pad with a token of its own, or make the labels yourself "
                "and use `DataCollatorForSeq2Seq`",
            )


def _padded(module: Module) -> Iterator[tuple[Oid, ir.Node]]:
    """The tokenizers whose padding is set to their end-of-sequence token."""
    for store in module.stores:
        if store.name not in ("pad_token", "pad_token_id") or not isinstance(store.value, Unknown):
            continue
        owner = next((o for o, f in store.heap.items() if isinstance(f, Tokenizer) and store.value.key.startswith(f"{o}.eos_token")), None)
        oid = getattr(store.receiver, "oid", None)
        if owner is not None and owner == oid:
            yield owner, store.node
