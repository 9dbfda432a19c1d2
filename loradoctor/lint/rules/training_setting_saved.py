"""LD311."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Model
from loradoctor.lint.flow.trace import Store
from loradoctor.lint.flow.values import Known, Oid, Unknown
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.rule import rule


@rule("LD311", Severity.INFO, "SV13")
def training_setting_saved(module: Module) -> Iterator[Finding]:
    """`use_cache = False`, set for training, is written into the configuration of the merged model.

    The cache is switched off for gradient checkpointing. The setting belongs to the model's configuration, which is saved with the
    merged model, and whoever loads it generates without a cache: several times slower, for no visible reason.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    base.config.use_cache = False
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    train(model.parameters())
    merged = model.merge_and_unload()
    merged.save_pretrained("merged")
    AutoTokenizer.from_pretrained("gpt2").save_pretrained("merged")
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    base.config.use_cache = False
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    train(model.parameters())
    merged = model.merge_and_unload()
    merged.config.use_cache = True
    merged.save_pretrained("merged")
    AutoTokenizer.from_pretrained("gpt2").save_pretrained("merged")
    ```
    """
    if module.is_test:
        return
    settings = [s for s in module.stores if s.name == "use_cache" and isinstance(s.receiver, Unknown)]
    if any(s.value != Known(False) for s in settings):  # noqa: FBT003
        return

    def setting(arrival: Arrival) -> Store | None:
        facts = arrival.facts(arrival.receiver, Model)
        oid = arrival.oid(arrival.receiver)
        if facts is None or facts.merged is None or oid is None:
            return None
        return next((s for s in settings if _belongs(s, (oid, facts.wrapper))), None)

    for site in module.calls("save_pretrained"):
        found = site.sometimes(setting)
        store = setting(found) if found else None
        if store is not None:
            yield site.finding(
                "`use_cache = False` of the training is saved with the merged model",
                related=module.related(store.node, "switched off here"),
                help="the merged model generates without a cache; set `config.use_cache = True` before saving",
                fix=_fix(module, site),
            )


def _belongs(store: Store, owners: tuple[Oid | None, ...]) -> bool:
    return isinstance(store.receiver, Unknown) and any(o is not None and store.receiver.key == f"{o}.config" for o in owners)


def _fix(module: Module, site: Site) -> Fix | None:
    """Switch the cache on again in a statement of its own before the save."""
    name, statement = site.receiver_name, module.statement(site.node)
    if name is None or not isinstance(statement, ir.Evaluate):
        return None
    return Fix("switch the cache on again", (module.precede(statement, f"{name}.config.use_cache = True"),))
