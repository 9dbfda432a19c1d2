"""LD306."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Model, Peft
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_NONE = (
    "add_adapter", "set_adapter", "merge_adapter", "unmerge_adapter", "add_weighted_adapter", "delete_adapter", "save_pretrained",
    "print_trainable_parameters", "gradient_checkpointing_enable", "enable_input_require_grads", "load_adapter",
)  # fmt: skip
"""Methods that change the model in place; all return None, but for `load_adapter`, which tells of the keys it met."""
_OF_PEFT = frozenset("merge_adapter unmerge_adapter add_weighted_adapter print_trainable_parameters".split())


@rule("LD306", Severity.ERROR, "SV7")
def none_assigned(module: Module) -> Iterator[Finding]:
    """The result of a method that changes the model in place is assigned to the model's own name.

    `add_adapter`, `set_adapter`, `merge_adapter`, `print_trainable_parameters`, `gradient_checkpointing_enable` and others
    return None; `load_adapter` returns the keys that did not match. The model is gone, and the next line that uses it fails
    with `'NoneType' object has no attribute …`.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    model = model.print_trainable_parameters()
    Trainer(model=model).train()
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    model.print_trainable_parameters()
    Trainer(model=model).train()
    ```
    """
    assigned = {n.value.uid: n for n in module.assignments() if isinstance(n.value, ir.Call)}
    for site in module.calls(*_NONE):
        statement, func = assigned.get(site.node.uid), site.node.func
        if statement is None or not isinstance(func, ir.Attr) or not site.sometimes(_is_model):
            continue
        receiver = module.text(func.value)
        if not any(module.text(t) == receiver for t in statement.targets):
            continue
        keys = site.name == "load_adapter"
        yield module.finding(
            statement,
            f"`{receiver}` is replaced by what `{site.name}` returns: " + ("the keys that did not match" if keys else "None"),
            help=f"`{site.name}` changes the model in place; leave the assignment out",
            fix=Fix("leave the assignment out", (module.drop_targets(statement),)) if len(statement.targets) == 1 else None,
        )


def _is_model(arrival: Arrival) -> bool:
    """A model of PEFT or transformers; the classes of AdapterHub return an adapter's name."""
    if isinstance(arrival.facts(arrival.receiver, Peft), Peft):
        return True
    facts = arrival.facts(arrival.receiver, Model)
    own = facts is not None and facts.cls.startswith("transformers.") and "Adapter" not in facts.cls and "WithHeads" not in facts.cls
    return own and not (facts is not None and facts.touched) and arrival.visit.name not in _OF_PEFT
