"""LD423."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Directory, Model, Peft
from loradoctor.lint.flow.values import Oid
from loradoctor.lint.libraries.effects import directory
from loradoctor.lint.module import Arrival, Module
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
    resized: dict[Oid, ir.Node] = {
        base[0]: s.node for s in module.calls("resize_token_embeddings") for a in s.arrivals if (base := a.base(a.receiver)) is not None
    }

    def misfit(arrival: Arrival) -> tuple[ir.Node, ir.Node] | None:
        base = arrival.facts(arrival.arg("model"), Model)
        oid = arrival.oid(arrival.arg("model"))
        path = directory(arrival.arg("model_id"))
        kept = arrival.visit.heap.get(path) if path is not None else None
        if base is None or oid in resized or base.touched or base.carries_adapter or not isinstance(kept, Directory):
            return None
        save = module.sites.get(kept.adapter.uid) if kept.adapter else None
        for a in save.arrivals if save and base.made is not None else ():
            wrapper = a.facts(a.receiver, Peft)
            trained = a.base(a.receiver)
            same = trained is not None and trained[1].source is not None and trained[1].source == base.source
            if save and wrapper and trained and same and trained[0] in resized and save.argument("save_embedding_layers") is None:
                return save.node, resized[trained[0]]
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
