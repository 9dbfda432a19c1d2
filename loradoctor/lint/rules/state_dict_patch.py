"""LD305."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.values import Derived
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_HELP = (
    "with PEFT 0.3 to 0.19 `save_pretrained` filters the state dict a second time and writes a file without tensors; "
    "`save_pretrained` needs no help: it writes the adapter alone"
)


@rule("LD305", Severity.ERROR, "SV6")
def state_dict_patch(module: Module) -> Iterator[Finding]:
    """The model's `state_dict` is replaced so that it returns only the adapter, and `save_pretrained` then saves nothing.

    The idiom comes from the first LoRA fine-tuning scripts. Since then `save_pretrained` picks the adapter's tensors out of
    the state dict itself; given one that is already filtered and renamed, PEFT from 0.3 to 0.19 finds none, and writes a file
    of 443 bytes (`.bin`) or 40 bytes (safetensors). PEFT 0.20 and later cope with it.

    ```python
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    old_state_dict = model.state_dict
    model.state_dict = (lambda self, *_, **__: get_peft_model_state_dict(self, old_state_dict())).__get__(model, type(model))
    model.save_pretrained("adapter")
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    old_state_dict = model.state_dict
    model.save_pretrained("adapter")
    ```
    It is an error where the project pins a PEFT that is hurt by it, and information otherwise.
    """
    hurt = module.before("peft", "0.20") and not module.before("peft", "0.3")
    severity = Severity.ERROR if hurt else Severity.INFO
    seen: set[int] = set()
    for store in module.stores:
        if store.name != "state_dict" or store.node.uid in seen or "get_peft_model_state_dict" not in module.text(store.expr):
            continue
        seen.add(store.node.uid)
        edits = (module.delete_statement(store.node),) if isinstance(store.node, ir.Assign) else ()
        yield module.finding(
            store.node,
            "`state_dict` is patched to return only the adapter, which `save_pretrained` already does",
            severity=severity,
            help=_HELP,
            fix=Fix("remove the patch", edits) if edits else None,
        )

    def filtered(arrival: Arrival) -> bool:
        value = arrival.arg("state_dict")
        return isinstance(value, Derived) and value.kind == "adapter_state_dict"

    for site in module.calls("save_pretrained"):
        if site.sometimes(filtered):
            yield site.finding(
                "`save_pretrained` is given a state dict that `get_peft_model_state_dict` has already filtered",
                severity=severity,
                help=_HELP,
            )
