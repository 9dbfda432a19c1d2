"""LD422."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Config, Peft
from loradoctor.lint.flow.values import NONE, Items, Known, Oid
from loradoctor.lint.libraries.vocabularies import vocabulary
from loradoctor.lint.module import Arrival, Module
from loradoctor.lint.rules.tokens_without_resize import new_tokens
from loradoctor.rule import rule

_EMBEDDINGS = ("embed", "wte", "word_embeddings", "lm_head", "embd", "tok_embeddings", "shared")


@rule("LD422", Severity.ERROR, "TK3")
def resized_not_trained(module: Module) -> Iterator[Finding]:
    """Tokens are added and their embeddings stay as they were drawn: nothing trains them.

    The rows that `resize_token_embeddings` adds hold no meaning yet. An adapter on the attention layers leaves them frozen, so the
    model never learns what the new tokens say or when to write them. With `save_embedding_layers=False` they are not even
    kept, and every load draws others.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("mistralai/Mistral-7B-v0.1")
    tokenizer.add_tokens(["<tool>", "</tool>"])
    base = AutoModelForCausalLM.from_pretrained("mistralai/Mistral-7B-v0.1", dtype="float32")
    base.resize_token_embeddings(len(tokenizer))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    model.save_pretrained("adapter", save_embedding_layers=False)
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
    model.save_pretrained("adapter")
    ```
    Since PEFT 0.15 `trainable_token_indices` trains the new rows alone.
    """
    if module.is_test:
        return
    grown = dict(_grown(module))
    reported: set[int] = set()
    for site in module.calls("peft.get_peft_model", "trl.*"):
        for arrival in site.arrivals:
            base, config = arrival.base(arrival.arg("model")), arrival.facts(arrival.arg("peft_config"), Config)
            if base is None or config is None or base[0] not in grown or not _leaves_out(config) or base[1].touched or base[1].unfrozen:
                continue
            step, node = grown[base[0]]
            if step > arrival.visit.step or node.uid in reported or module.happened("unfrozen", arrival.oid(arrival.visit.result)):
                continue
            reported.add(node.uid)
            lost = _saved_without(module, arrival.oid(arrival.visit.result))
            yield module.finding(
                node,
                "tokens are added, and the adapter does not train their embeddings",
                severity=Severity.ERROR if lost else Severity.WARNING,
                related=(*module.related(config.made, "no embeddings are named here"), *module.related(lost, "saved without them")),
                help="the new rows stay random"
                + (" and are not saved" if lost else "")
                + "; name the embeddings and the head in `modules_to_save`, or the new ids in `trainable_token_indices`",
            )


def _grown(module: Module) -> Iterator[tuple[Oid, tuple[int, ir.Node]]]:
    """The models whose embeddings were given new rows that mean something."""
    added = any(new_tokens(a) for s in module.calls("add_tokens", "add_special_tokens") for a in s.arrivals)
    for site in module.calls("resize_token_embeddings", "trl.setup_chat_format"):
        for a in site.arrivals:
            formats = site.name == "trl.setup_chat_format"
            base = a.base(a.arg("model") if formats else a.receiver)
            if base is None or base[1].carries_adapter:
                continue
            source = base[1].source
            if (isinstance(source, Known) and _lacks_format(source.value)) if formats else added:
                yield base[0], (a.visit.step, site.node)


def _lacks_format(name: object) -> bool:
    """Whether a model is known not to have the tokens of the chat format; Qwen and SmolLM2 have them from the start."""
    known = vocabulary(name)
    return known is not None and known.plain


def _leaves_out(config: Config) -> bool:
    """Whether a configuration certainly trains no embeddings."""
    if not config.complete or config.loaded_from is not None or config.cls != "peft.LoraConfig":
        return False
    if config.get("trainable_token_indices") not in (None, NONE):
        return False
    for field in ("modules_to_save", "target_modules"):
        value = config.get(field)
        listed = value.items if isinstance(value, Items) else () if value in (None, NONE) else (value,)
        if any(not isinstance(v, Known) or any(e in str(v.value) for e in _EMBEDDINGS) for v in listed):
            return False
        if isinstance(value, Known) and value not in (NONE, Known("all-linear")):
            return False
    return True


def _saved_without(module: Module, wrapper: Oid | None) -> ir.Node | None:
    def without(arrival: Arrival) -> bool:
        mine = wrapper is not None and arrival.oid(arrival.receiver) == wrapper and arrival.facts(arrival.receiver, Peft) is not None
        return mine and arrival.arg("save_embedding_layers") == Known(False)  # noqa: FBT003

    return next((s.node for s in module.calls("save_pretrained") if s.sometimes(without)), None)
