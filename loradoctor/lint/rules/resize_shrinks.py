"""LD425."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.values import Items, Known
from loradoctor.lint.libraries.vocabularies import vocabulary
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.rule import rule


@rule("LD425", Severity.WARNING, "TK6")
def resize_shrinks(module: Module) -> Iterator[Finding]:
    """The embeddings of a model with spare rows are cut down to the size of the tokenizer.

    Qwen, Phi, Pythia, OPT, BLOOM and T5 round their vocabulary up. `resize_token_embeddings(len(tokenizer))` takes the spare rows
    away, although every token would have had a row. An adapter that carries such embeddings fits only a base that was cut down
    in the same way, and loading it elsewhere ends in a size mismatch.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen2.5-0.5B")
    base = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B")
    base.resize_token_embeddings(len(tokenizer))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen2.5-0.5B")
    base = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B")
    if len(tokenizer) > base.get_input_embeddings().num_embeddings:
        base.resize_token_embeddings(len(tokenizer))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    ```
    """
    if module.is_test or "peft" not in module.imports or _adds_unseen_tokens(module):
        return

    def shrinks(arrival: Arrival) -> bool:
        base = arrival.base(arrival.receiver)
        known = vocabulary(base[1].source.value) if base is not None and isinstance(base[1].source, Known) else None
        return known is not None and known.rows > known.tokens and arrival.arg("pad_to_multiple_of") is None

    for site in module.calls("resize_token_embeddings"):
        if _is_length(site) and not module.around(site.node) and site.sometimes(shrinks) and site.always(shrinks):
            yield site.finding(
                "the embeddings are resized to the tokenizer's length, which is less than they have",
                help="an adapter with these embeddings fits no other copy of the base; "
                "resize only if `len(tokenizer)` is larger than `model.get_input_embeddings().num_embeddings`",
            )


def _adds_unseen_tokens(module: Module) -> bool:
    """Whether tokens are added whose number is not known: they may need more rows than there are."""
    arrivals = [a for s in module.calls("add_tokens") for a in s.arrivals]
    return any(not isinstance(a.arg("new_tokens"), (Items, Known)) for a in arrivals)


def _is_length(site: Site) -> bool:
    """Whether the new size is written as the length of something."""
    written = site.argument("new_num_tokens")
    value = written.value if written else None
    return isinstance(value, ir.Call) and isinstance(value.func, ir.Name) and value.func.id == "len"
