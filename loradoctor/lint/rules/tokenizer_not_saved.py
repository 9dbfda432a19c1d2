"""LD310."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Model
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_SAVED_OTHERWISE = frozenset({"processor", "save_pretrained_merged", "copy_tokenizer", "push_to_hub_merged", "copytree", "snapshot_download"})


@rule("LD310", Severity.INFO, "SV12")
def tokenizer_not_saved(module: Module) -> Iterator[Finding]:
    """A merged model is saved without its tokenizer.

    A merged model is meant to be used on its own. Its directory then lacks the tokenizer, and whoever loads it has to know which
    one it was, with which tokens added. Servers that are given the directory refuse it or guess.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("gpt2")
    base = AutoModelForCausalLM.from_pretrained("gpt2")
    merged = PeftModel.from_pretrained(base, "adapter").merge_and_unload()
    merged.save_pretrained("merged")
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("gpt2")
    base = AutoModelForCausalLM.from_pretrained("gpt2")
    merged = PeftModel.from_pretrained(base, "adapter").merge_and_unload()
    merged.save_pretrained("merged")
    tokenizer.save_pretrained("merged")
    ```
    """
    if module.is_test or "AutoTokenizer" not in module.program.words or not module.program.words.isdisjoint(_SAVED_OTHERWISE):
        return

    def merged(arrival: Arrival) -> bool:
        facts = arrival.facts(arrival.receiver, Model)
        return facts is not None and facts.merged is not None and facts.cls.startswith("transformers.")

    saves = list(module.calls("save_pretrained", "push_to_hub", "transformers.*"))
    others = [s for s in saves if s.name.endswith(("save_pretrained", "push_to_hub")) and not s.sometimes(lambda a: a.base(a.receiver))]
    if others:
        return
    first = next((s for s in saves if s.name == "save_pretrained" and s.sometimes(merged)), None)
    if first is not None:
        yield first.finding(
            "a merged model is saved without its tokenizer",
            help="the directory cannot be used on its own; save the tokenizer into it as well",
        )
