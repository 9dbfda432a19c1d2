"""LD421."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Tokenizer, Trainer
from loradoctor.lint.flow.values import Items, Known, Table, Value
from loradoctor.lint.libraries.vocabularies import vocabulary
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD421", Severity.ERROR, "TK2")
def tokens_without_resize(module: Module) -> Iterator[Finding]:
    """Tokens are added to a tokenizer, and the model's embeddings have no rows for them.

    A new token gets the next free id, which lies behind the last row of the embeddings. The first batch with such a token ends in
    "index out of range in self", or on a GPU in a device-side assert that names no cause.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

    tokenizer = AutoTokenizer.from_pretrained("gpt2")
    tokenizer.add_tokens(["<tool>", "</tool>"])
    base = AutoModelForCausalLM.from_pretrained("gpt2")
    config = LoraConfig(task_type="CAUSAL_LM", modules_to_save=["wte", "lm_head"])
    Trainer(model=get_peft_model(base, config)).train()
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

    tokenizer = AutoTokenizer.from_pretrained("gpt2")
    tokenizer.add_tokens(["<tool>", "</tool>"])
    base = AutoModelForCausalLM.from_pretrained("gpt2")
    base.resize_token_embeddings(len(tokenizer))
    config = LoraConfig(task_type="CAUSAL_LM", modules_to_save=["wte", "lm_head"])
    Trainer(model=get_peft_model(base, config)).train()
    ```
    """
    if module.is_test or any("resize" in w or "chat_format" in w or "chat_template" in w for w in module.program.words) or module.others:
        return
    trained = [s for s in _trained_sources(module) if isinstance(s, Known)]
    for site in module.calls("add_tokens", "add_special_tokens"):

        def grows(arrival: Arrival) -> bool:
            facts = arrival.facts(arrival.receiver, Tokenizer)
            known = vocabulary(facts.source.value) if facts is not None and isinstance(facts.source, Known) else None
            full = known is not None and known.rows == known.tokens
            return full and facts is not None and facts.source in trained and bool(new_tokens(arrival))

        if site.sometimes(grows) and site.always(grows):
            yield site.finding(
                "tokens are added, and the embeddings are never resized",
                help="their ids lie behind the last row: training fails with an index error; "
                "call `model.resize_token_embeddings(len(tokenizer))` before the adapter goes in",
            )


def new_tokens(arrival: Arrival) -> tuple[str, ...]:
    """The tokens that a call certainly adds, without those for padding and those that replace one the tokenizer has."""
    value = arrival.arg("new_tokens") or arrival.arg("special_tokens_dict")
    if isinstance(value, Table):
        value = value.get("additional_special_tokens") or value.get("extra_special_tokens")
    listed: tuple[Value, ...] = value.items if isinstance(value, Items) else (value,) if isinstance(value, Known) else ()
    found = tuple(v.value for v in listed if isinstance(v, Known) and isinstance(v.value, str))
    return tuple(t for t in found if not re.fullmatch(r"<\|?pad\|?>|\[PAD\]|</?s>|<unk>|<\|endoftext\|>", t, re.IGNORECASE))


def _trained_sources(module: Module) -> Iterator[Value]:
    """Where the trained models are loaded from."""
    for site in module.calls("train"):
        for a in site.arrivals:
            trainer = a.facts(a.receiver, Trainer)
            base = a.base(trainer.model) if trainer else None
            if base is not None and base[1].source is not None and not base[1].touched:
                yield base[1].source


