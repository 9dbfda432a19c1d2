"""LD117."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.module import Arrival, Module
from loradoctor.lint.shells import shell_around
from loradoctor.rule import rule


@rule("LD117", Severity.ERROR, "SV9")
def compile_before_wrap(module: Module) -> Iterator[Finding]:
    """A model is compiled before the adapter goes in: what is saved cannot be loaded onto a plain base.

    `torch.compile` returns a module that holds the model under `_orig_mod`. An adapter put in afterwards has that word in the
    names of all its tensors. Loaded onto a base that is not compiled, none of them is found and the output is the base
    model's; before PEFT 0.14 nothing says so. Compiling the PEFT model is fine: it saves under the plain names.

    ```python
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = torch.compile(model)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    Trainer(model=model).train()
    ```
    What to write instead:
    ```python
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    model = torch.compile(model)
    Trainer(model=model).train()
    ```
    """
    for site in module.calls("peft.get_peft_model", "peft.PeftModel*"):
        written = site.argument("model")
        if written is None:
            continue

        def compiled(arrival: Arrival, expr: ir.Expr = written.value) -> ir.Call | None:
            return shell_around(arrival, arrival.arg("model"), expr, ("torch.compile",))

        found = site.sometimes(compiled)
        if found is not None:
            yield site.finding(
                "the adapter is put into a model that `torch.compile` has wrapped",
                severity=Severity.ERROR if site.always(compiled) else Severity.WARNING,
                related=module.related(compiled(found), "compiled here"),
                help="its tensors are named after `_orig_mod` and match no plain base: a reload leaves the adapter empty; compile after "
                "the adapter is in",
            )
