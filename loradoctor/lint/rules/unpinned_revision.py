"""LD454."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.values import NONE
from loradoctor.lint.libraries.hub import is_repository
from loradoctor.lint.module import Arrival, Module, literal
from loradoctor.rule import rule


@rule("LD454", Severity.INFO, "SE5")
def unpinned_revision(module: Module) -> Iterator[Finding]:
    """An adapter comes from the Hub in whatever version stands there on the day.

    Without `revision` the newest commit is taken. The owner can retrain the adapter, change its base or its rank, or take it
    down, and a program that worked gives other answers. It is told once for a file.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "sofia/gpt2-poems")
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "sofia/gpt2-poems", revision="4f1c2a9d")
    ```
    """
    written = {place for save in module.calls("save_pretrained", "save_model") for a in save.arrivals if (place := _written(a))}

    def unpinned(arrival: Arrival) -> str | None:
        source = literal(arrival.arg("model_id"))
        named = isinstance(source, str) and is_repository(source) and source not in written
        return str(source) if named and arrival.arg("revision") in (None, NONE) else None

    for site in module.calls("peft.*", "load_adapter"):
        found = site.sometimes(unpinned)
        if found:
            yield site.finding(
                f"the adapter `{unpinned(found)}` is taken from the Hub in its newest version",
                help="its owner can change it at any time; pass `revision=` with the hash of a commit",
            )
            return


def _written(arrival: Arrival) -> str | None:
    """A directory that the program itself saves to, by its literal name."""
    place = literal(arrival.arg("save_directory") or arrival.arg("output_dir"))
    return place if isinstance(place, str) else None
