"""LD303."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Model, Peft
from loradoctor.lint.flow.values import Derived, Known, Unknown
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD303", Severity.ERROR, "SV3")
def inner_model_saved(module: Module) -> Iterator[Finding]:
    """The model inside the PEFT wrapper is saved while the adapter is still in it.

    The base model that `get_peft_model` changed in place has layers called `q_proj.base_layer.weight` and
    `q_proj.lora_A.default.weight`. `save_pretrained` on it writes those names; a reload does not find `q_proj.weight` and
    fills it with random numbers. Nothing fails.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "runs/last")
    model.get_base_model().save_pretrained("exported")
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "runs/last")
    model.merge_and_unload().save_pretrained("exported")
    ```
    To keep the adapter apart, save the PEFT model: `model.save_pretrained("adapter")`.

    Old export scripts set `merge_weights = True` on the layers and call `.train(False)`. That merged them before peft 0.3; since
    then nothing reads the attribute, and the base model is exported as it was.
    """

    def inside(arrival: Arrival) -> Model | None:
        receiver = arrival.receiver
        if module.happened("rebuilt", arrival.oid(receiver)):
            return None
        if isinstance(receiver, Derived) and receiver.kind == "tuner":
            wrapper = arrival.facts(receiver.source, Peft)
            base = arrival.base(receiver.source)
            facts = base[1] if base and wrapper and not wrapper.gutted else None
        else:
            facts = arrival.facts(receiver, Model)
        return facts if facts and facts.carries_adapter and not facts.native and _plainly(arrival, facts) else None

    for site in module.calls("save_pretrained", "push_to_hub"):
        found = site.sometimes(inside)
        facts = inside(found) if found else None
        if facts is not None:
            yield site.finding(
                "the base model is saved with the adapter's layers still inside",
                related=module.related(facts.injected, "the adapter goes in here"),
                help="its tensors are called `…base_layer.weight`, so a reload fills those layers with random weights; save the PEFT model, "
                "or the result of `merge_and_unload()`",
            )

    yield from _flagged_for_merging(module)


def _flagged_for_merging(module: Module) -> Iterator[Finding]:
    """The attribute by which layers were told to merge before peft 0.3."""
    if module.before("peft", "0.3") or not any(module.calls("peft.get_peft_model", "peft.PeftModel*", "peft.AutoPeftModel*")):
        return
    for store in module.stores:
        asked = store.name == "merge_weights" and store.value == Known(True)  # noqa: FBT003
        if asked and isinstance(store.receiver, Unknown) and not any("version" in module.text(s.test) for s in module.around(store.node)):
            yield module.finding(
                store.node,
                "`merge_weights` merges nothing since peft 0.3",
                help="what is exported is the base model without the adapter, under the names of its layers; use the result of "
                "`merge_and_unload()`",
            )
            return


def _plainly(arrival: Arrival, facts: Model) -> bool:
    """Saved as it is: no state dict passed, no surgery by code that is out of sight."""
    return arrival.arg("state_dict") is None and not facts.touched
