"""LD423."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Model, Peft, Trainer
from loradoctor.lint.flow.values import Known, Oid
from loradoctor.lint.module import Arrival, Module, literal
from loradoctor.lint.rules.tokens_without_resize import new_tokens
from loradoctor.rule import rule


@rule("LD423", Severity.ERROR, "TK4")
def load_without_resize(module: Module) -> Iterator[Finding]:
    """An adapter that was trained on resized embeddings is loaded onto a base of the original size.

    PEFT saves the embeddings along with the adapter when they were resized. They do not fit the model as it comes from the hub,
    and loading stops with "size mismatch for base_model.model.model.embed_tokens.weight".

    ```python
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("facebook/opt-350m")
    base.resize_token_embeddings(50304)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", modules_to_save=["embed_tokens", "lm_head"]))
    model.save_pretrained("adapter")

    fresh = AutoModelForCausalLM.from_pretrained("facebook/opt-350m")
    model = PeftModel.from_pretrained(fresh, "adapter")
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("facebook/opt-350m")
    base.resize_token_embeddings(50304)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", modules_to_save=["embed_tokens", "lm_head"]))
    model.save_pretrained("adapter")

    fresh = AutoModelForCausalLM.from_pretrained("facebook/opt-350m")
    fresh.resize_token_embeddings(50304)
    model = PeftModel.from_pretrained(fresh, "adapter")
    ```
    """
    if module.is_test:
        return
    resized = _resized(module)

    def misfit(arrival: Arrival) -> tuple[ir.Node, ir.Node] | None:
        base = arrival.facts(arrival.arg("model"), Model)
        oid = arrival.oid(arrival.arg("model"))
        if base is None or base.made is None or oid in resized or base.touched or base.carries_adapter:
            return None
        kept = arrival.kept(arrival.arg("model_id"))
        save = module.site(kept.adapter) if kept is not None and not kept.assumed else None
        if save is None or not save.always(_with_embeddings):
            return None
        grown = resized if save.module is module else _grown(save.module)
        for a in save.arrivals:
            trainer = a.facts(a.receiver, Trainer)
            receiver = trainer.model if trainer else a.receiver
            trained = a.base(receiver) if a.facts(receiver, Peft) else None
            if trained is not None and trained[1].source is not None and trained[1].source == base.source and trained[0] in grown:
                return save.node, grown[trained[0]]
        return None

    for site in module.calls("peft.PeftModel*"):
        found = site.sometimes(misfit) if site.name.endswith("from_pretrained") else None
        places = misfit(found) if found else None
        if places is None or not site.always(misfit):
            continue
        yield site.finding(
            "an adapter with resized embeddings is loaded onto a base of the original size",
            related=(*module.related(places[1], "resized for training here"), *module.related(places[0], "saved with the embeddings here")),
            help="loading fails with a size mismatch; resize the base in the same way before the adapter is loaded",
        )


def _resized(module: Module) -> dict[Oid, ir.Node]:
    """The models whose embeddings are resized, and where."""
    calls = module.calls("resize_token_embeddings")
    return {base[0]: site.node for site in calls for a in site.arrivals if (base := a.base(a.receiver)) is not None}


def _grown(module: Module) -> dict[Oid, ir.Node]:
    """Those of another script that are certainly of another size for it: resized to the length of a tokenizer, only if tokens were added."""
    added = any(new_tokens(a) for site in module.calls("add_tokens", "add_special_tokens") for a in site.arrivals)
    fixed = {
        site.node for site in module.calls("resize_token_embeddings") if site.always(lambda a: isinstance(literal(a.arg("new_num_tokens")), int))
    }
    return {oid: node for oid, node in _resized(module).items() if added or node in fixed}


def _with_embeddings(saving: Arrival) -> bool:
    """Whether a save writes the embeddings of a resized model: PEFT does so unless it is told not to."""
    return saving.arg("save_embedding_layers") in (None, Known("auto"), Known(True))  # noqa: FBT003
