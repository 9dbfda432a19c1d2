"""LD426."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint.flow.facts import Tokenizer
from loradoctor.lint.flow.values import Derived, Items, Known
from loradoctor.lint.libraries.vocabularies import vocabulary
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD426", Severity.WARNING, "TK7")
def double_bos(module: Module) -> Iterator[Finding]:
    """A text from a chat template is tokenized with special tokens, and begins with two of them.

    Chat templates of Llama, Mistral and Gemma write the beginning-of-sequence token into the text. Tokenizing that text puts another
    one in front. The model has never seen two, and answers a little worse for no visible reason, in training and afterwards.

    ```python
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    model = AutoPeftModelForCausalLM.from_pretrained("adapter")
    tokenizer = AutoTokenizer.from_pretrained("meta-llama/Llama-3.1-8B-Instruct")
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(text, return_tensors="pt")
    ```
    What to write instead:
    ```python
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    model = AutoPeftModelForCausalLM.from_pretrained("adapter")
    tokenizer = AutoTokenizer.from_pretrained("meta-llama/Llama-3.1-8B-Instruct")
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    ```
    """
    if any(s.name == "chat_template" for s in module.stores) or "setup_chat_format" in module.program.words:
        return

    def doubled(arrival: Arrival) -> bool:
        facts = arrival.facts(arrival.receiver, Tokenizer)
        text = arrival.arg("text")
        if isinstance(text, Items) and text.items:
            text = text.items[0]
        from_template = isinstance(text, Derived) and text.kind == "chat_text" and text.source == arrival.receiver
        known = vocabulary(facts.source.value) if facts is not None and isinstance(facts.source, Known) else None
        begins = known is not None and known.begins
        return from_template and begins and arrival.arg("add_special_tokens") is None and not arrival.visit.binding.open

    for site in module.calls("__call__"):
        if site.sometimes(doubled):
            edit = module.add_argument(site.node, "add_special_tokens=False")
            yield site.finding(
                "a text from a chat template is tokenized with special tokens again",
                help="it begins with two beginning-of-sequence tokens; pass `add_special_tokens=False`",
                fix=Fix("pass `add_special_tokens=False`", (edit,)),
            )
