"""LD320."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Model
from loradoctor.lint.flow.values import Derived
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD320", Severity.WARNING, "MG2")
def merge_into_quantized(module: Module) -> Iterator[Finding]:
    """An adapter is merged into quantized weights.

    The sum of base and update is quantized again: the rounding error is as large as the quantization error itself, and a
    small update can vanish in it. The result stays quantized, too, with a `quantization_config` that many servers refuse.
    Merging into a base loaded in 16 bits keeps the update.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base = AutoModelForCausalLM.from_pretrained("gpt2", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    merged = PeftModel.from_pretrained(base, "runs/last").merge_and_unload()
    merged.save_pretrained("merged")
    ```
    What to write instead:
    ```python
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2", dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(base, "runs/last").merge_and_unload()
    merged.save_pretrained("merged")
    ```
    """

    def quantized(arrival: Arrival) -> Model | None:
        receiver = arrival.receiver
        if isinstance(receiver, Derived) and receiver.kind == "tuner":
            receiver = receiver.source
        base = arrival.base(receiver)
        return base[1] if base and base[1].quantized else None

    for site in module.calls("merge_and_unload"):
        found = site.sometimes(quantized)
        facts = quantized(found) if found else None
        if facts is not None:
            yield site.finding(
                f"the adapter is merged into a base quantized to {facts.quantized}"
                if "bit" in (facts.quantized or "")
                else f"the adapter is merged into a base quantized with {facts.quantized}",
                related=module.related(facts.made, "loaded quantized here"),
                help="the merged weights are rounded to the quantization grid and part of the update is lost; reload the base in 16 bits, load "
                "the adapter onto it, and merge there",
            )
