"""LD424."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Config, Peft
from loradoctor.lint.flow.values import Items, Known
from loradoctor.lint.module import Arrival, Module
from loradoctor.lint.rules.tokens_without_resize import new_tokens
from loradoctor.rule import rule

_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "lm_head", "embed_in", "embed_out")


@rule("LD424", Severity.ERROR, "TK5")
def resize_after_wrap(module: Module) -> Iterator[Finding]:
    """The embeddings are resized after the adapter went in.

    If the embeddings or the head are in `modules_to_save` or `target_modules`, PEFT has put a wrapper around them, and resizing stops
    with "Old embeddings are of type ModulesToSaveWrapper". Otherwise it works, but the new rows are made after PEFT froze the
    base model and nothing trains them on purpose.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("mistralai/Mistral-7B-v0.1")
    tokenizer.add_tokens(["<tool>", "</tool>"])
    base = AutoModelForCausalLM.from_pretrained("mistralai/Mistral-7B-v0.1", dtype="float32")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", modules_to_save=["embed_tokens", "lm_head"]))
    model.resize_token_embeddings(len(tokenizer))
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("mistralai/Mistral-7B-v0.1")
    tokenizer.add_tokens(["<tool>", "</tool>"])
    base = AutoModelForCausalLM.from_pretrained("mistralai/Mistral-7B-v0.1", dtype="float32")
    base.resize_token_embeddings(len(tokenizer))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", modules_to_save=["embed_tokens", "lm_head"]))
    ```
    """
    if module.is_test:
        return
    added = any(new_tokens(a) for s in module.calls("add_tokens", "add_special_tokens") for a in s.arrivals)

    def late(arrival: Arrival) -> Peft | None:
        facts = arrival.facts(arrival.receiver, Peft)
        if facts is None:
            base = arrival.base(arrival.receiver)
            found = arrival.visit.heap.get(base[1].wrapper) if base and base[1].wrapper is not None and base[1].carries_adapter else None
            facts = found if isinstance(found, Peft) else None
        known = facts is not None and facts.how == "get_peft_model" and not (facts.gutted or facts.touched or facts.prompt)
        return facts if known else None

    for site in module.calls("resize_token_embeddings"):
        found = site.sometimes(late)
        facts = late(found) if found else None
        if found is None or facts is None or not site.node.args:
            continue
        wrapped = _wrapped(found, facts)
        if not wrapped and (not added or _looked_after(module, found)):
            continue
        yield site.finding(
            "the embeddings are resized after the adapter went in",
            severity=Severity.ERROR if wrapped and site.always(late) else Severity.WARNING,
            related=module.related(facts.made, "the adapter goes in here"),
            help=("PEFT has wrapped the embeddings and resizing raises a `TypeError`" if wrapped else "nothing trains the new rows")
            + "; resize before `get_peft_model`",
        )


def _looked_after(module: Module, arrival: Arrival) -> bool:
    """Whether weights of the model are made trainable by hand, or come out of a file."""
    wrapper = arrival.oid(arrival.receiver)
    return any(module.happened(kind, wrapper) for kind in ("unfrozen", "filled", "touched"))


def _wrapped(arrival: Arrival, facts: Peft) -> bool:
    config = arrival.facts(facts.config, Config)
    if config is None:
        return False
    named = [v for f in ("modules_to_save", "target_modules") if isinstance(value := config.get(f), Items) for v in value.items]
    return any(isinstance(v, Known) and v.value in _EMBEDDINGS for v in named)
