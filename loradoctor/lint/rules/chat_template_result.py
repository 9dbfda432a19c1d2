"""LD427."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.values import Derived, Value
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD427", Severity.ERROR, "TK8")
def chat_template_result(module: Module) -> Iterator[Finding]:
    """What `apply_chat_template` returns is used as a tensor; since transformers 5 it is a dictionary.

    `return_dict` defaults to `True` since transformers 5. `generate` then gets a dictionary where it wants ids and stops with an
    `AttributeError`. Before that version the same code got a tensor and worked.

    ```python
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    model = AutoPeftModelForCausalLM.from_pretrained("adapter")
    tokenizer = AutoTokenizer.from_pretrained("adapter")
    ids = tokenizer.apply_chat_template(messages, return_tensors="pt")
    answer = model.generate(input_ids=ids)
    ```
    What to write instead:
    ```python
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    model = AutoPeftModelForCausalLM.from_pretrained("adapter")
    tokenizer = AutoTokenizer.from_pretrained("adapter")
    ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=False)
    answer = model.generate(input_ids=ids)
    ```
    """
    if module.before("transformers", "5"):
        return
    reported: set[str] = set()
    templates = {str(s.node.uid): s for s in module.calls("apply_chat_template")}
    for site in module.calls("generate"):
        found = site.sometimes(lambda a: _ids(a) is not None)
        value = _ids(found) if found else None
        if value is None or value.note in reported or value.note not in templates:
            continue
        reported.add(value.note)
        made = templates[value.note]
        plain = not any(arg.star for arg in made.node.args)
        edit = (module.add_argument(made.node, "return_dict=False"),)
        yield site.finding(
            "the result of `apply_chat_template` is passed as ids, and is a dictionary since transformers 5",
            related=module.related(made.node, "made here, without `return_dict`"),
            help="this raises an `AttributeError`; pass `return_dict=False` to `apply_chat_template`, or unpack it: `generate(**inputs)`",
            fix=Fix("pass `return_dict=False`", edit) if plain and _only_ids(module, made.node) else None,
        )


def _ids(arrival: Arrival) -> Derived | None:
    positional = arrival.visit.binding.positional
    values: tuple[Value | None, ...] = (*positional[:1], arrival.arg("input_ids"), arrival.arg("inputs"))
    return next((v for v in values if isinstance(v, Derived) and v.kind == "chat_encoding"), None)


def _only_ids(module: Module, call: ir.Call) -> bool:
    """Whether nothing takes the result for a dictionary."""
    name = next((s.targets[0].id for s in module.assignments() if s.value is call and isinstance(s.targets[0], ir.Name)), None)
    return name is not None and f"**{name}" not in module.source.text and f'{name}["' not in module.source.text
