"""LD103."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Config
from loradoctor.lint.flow.values import Known
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD103", Severity.ERROR, "LO3")
def fresh_adapter_for_trained_one(module: Module) -> Iterator[Finding]:
    """A trained adapter's configuration is given to `get_peft_model`, and its weights are never loaded.

    `get_peft_model(model, PeftConfig.from_pretrained(path))` reads the configuration of the adapter in `path`, not the
    adapter: the new one starts at zero, so the model answers like its base. The configuration carries `inference_mode=True`,
    so training the result changes nothing either.

    ```python
    from peft import PeftConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(model, PeftConfig.from_pretrained("runs/last"))
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(model, "runs/last")
    ```
    Loading the weights afterwards, with `set_peft_model_state_dict` or `load_adapter`, is fine too.
    """

    def from_file(arrival: Arrival) -> Config | None:
        facts = arrival.facts(arrival.arg("peft_config"), Config)
        return facts if facts and facts.loaded_from is not None else None

    def written_by_hand(config: Config) -> bool:
        """Whether the configuration may come from a directory that holds nothing else.

        Then a loop trains, or it is counted what can be trained: with the configuration of a trained adapter that is nothing.
        """
        words = (module.program.words, *(unit.program.words for unit in module.others))
        return not isinstance(config.loaded_from, Known) and any(not _BY_HAND.isdisjoint(w) for w in words)

    def never_filled(arrival: Arrival) -> bool:
        oid = getattr(arrival.visit.result, "oid", None)
        return not any(module.happened(kind, oid) for kind in ("filled", "touched", "trained", "optimized"))

    for site in module.calls("peft.get_peft_model"):
        found = site.sometimes(from_file)
        if not found or not all(never_filled(a) for a in site.arrivals if from_file(a)):
            continue
        facts = from_file(found)
        if facts is None or written_by_hand(facts):
            continue
        yield site.finding(
            "a trained adapter's configuration makes a fresh adapter; its weights are never loaded",
            related=module.related(facts.made, "the configuration is read here"),
            help="the model answers like the base model; use `PeftModel.from_pretrained(model, path)`, which reads configuration and weights",
        )


_BY_HAND = frozenset({"backward", "get_nb_trainable_parameters"})
