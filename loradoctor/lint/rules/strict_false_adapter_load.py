"""LD105."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow import paths
from loradoctor.lint.flow.facts import Peft
from loradoctor.lint.flow.values import Derived, text_in
from loradoctor.lint.module import Arrival, Module, Site, literal
from loradoctor.rule import rule


@rule("LD105", Severity.ERROR, "LO4")
def strict_false_adapter_load(module: Module) -> Iterator[Finding]:
    """An adapter file is loaded with `load_state_dict(..., strict=False)`, which matches none of its keys.

    The tensors in an adapter file are named without the adapter's name (`…lora_A.weight`), those in the model with it
    (`…lora_A.default.weight`). `strict=False` skips every one of them without a word, and the model answers like its base.

    ```python
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    model.load_state_dict(load_file("runs/last/adapter_model.safetensors"), strict=False)
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    set_peft_model_state_dict(model, load_file("runs/last/adapter_model.safetensors"))
    ```
    `PeftModel.from_pretrained(base, path)` does both steps in one.
    """

    def lost(arrival: Arrival) -> bool:
        if literal(arrival.arg("strict")) is not False:
            return False
        weights = arrival.arg("state_dict")
        if not isinstance(weights, Derived):
            return False
        wrapped = arrival.facts(arrival.receiver, Peft) is not None
        if weights.kind == "adapter_state_dict":
            return wrapped
        if weights.kind not in ("torch.load", "load_file"):
            return False
        return "adapter_model." in text_in(weights.source) or (wrapped and _holds_adapter(module, weights))

    for site in module.calls("load_state_dict"):
        if site.dropped and site.sometimes(lost):
            yield site.finding(
                "an adapter's weights are loaded with `load_state_dict(..., strict=False)`: no key matches",
                related=module.related(_written(module, site), "they are saved here"),
                help="every tensor is skipped without a message and the model answers like the base model; use "
                "`set_peft_model_state_dict(model, weights)` or `PeftModel.from_pretrained`",
            )
    for (kind, _), nodes in module.trace.events.items():
        if kind == "adapter key sought":
            yield module.finding(
                nodes[0],
                "an adapter's tensors are looked up in the state dict of a model that has no adapter: no name matches",
                help="nothing is copied and the model stays the base model; load the adapter with `PeftModel.from_pretrained` and merge it with "
                "`merge_and_unload()`",
            )


def _holds_adapter(module: Module, weights: Derived) -> bool:
    """Whether what this program, or one beside it, saved to the same path is an adapter's state dict."""
    found = None if module.writes(weights.source) else module.elsewhere(weights.source)
    if found is not None:
        return found.kind == "adapter weights" and not found.assumed
    return any(
        paths.same(a.arg("f"), weights.source) and isinstance(a.arg("obj"), Derived) and getattr(a.arg("obj"), "kind", "") == "adapter_state_dict"
        for site in module.calls("torch.save")
        for a in site.arrivals
    )


def _written(module: Module, load: Site) -> ir.Node | None:
    """Where a neighbouring script has written what is loaded."""
    sources = [w.source for a in load.arrivals if isinstance(w := a.arg("state_dict"), Derived) and not module.writes(w.source)]
    return next((found.node for source in sources if (found := module.elsewhere(source)) is not None), None)
