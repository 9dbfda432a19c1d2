"""LD308."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Peft, Trainer
from loradoctor.lint.flow.values import Derived, text_in
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_RAW = ("state_dict", "parameters", "named_parameters")


@rule("LD308", Severity.ERROR, "SV10")
def raw_state_dict_as_adapter(module: Module) -> Iterator[Finding]:
    """A model's own state dict is saved under the name of an adapter file.

    PEFT expects the tensors of `adapter_model.bin` to be named without the adapter's name (`lora_A.weight`), while the model
    holds `lora_A.default.weight`. PEFT up to 0.17 loads such a file without filling anything; later versions accept it, but
    only for an adapter called `default`. Without `adapter_config.json` beside it nothing can load it at all.

    ```python
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    torch.save(model.state_dict(), "runs/last/adapter_model.bin")
    ```
    What to write instead:
    ```python
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    torch.save(get_peft_model_state_dict(model), "runs/last/adapter_model.bin")
    ```
    `model.save_pretrained("runs/last")` writes the configuration as well.
    """

    def raw(arrival: Arrival) -> bool:
        value = arrival.arg("obj")
        name = text_in(arrival.arg("f"))
        return isinstance(value, Derived) and value.kind in _RAW and name.endswith(("adapter_model.bin", "adapter_model.safetensors"))

    configured = any(
        arrival.facts(arrival.receiver, Peft) or arrival.facts(arrival.receiver, Trainer)
        for site in module.calls("save_pretrained", "save_model")
        for arrival in site.arrivals
    )
    for site in module.calls("torch.save"):
        if site.sometimes(raw):
            yield site.finding(
                "the model's own state dict is saved as an adapter file",
                severity=Severity.WARNING if configured else Severity.ERROR,
                help="its names carry the adapter's name, which PEFT up to 0.17 silently skips on loading"
                + ("" if configured else ", and no `adapter_config.json` is written")
                + "; use `model.save_pretrained(directory)`, or save `get_peft_model_state_dict(model)`",
            )
