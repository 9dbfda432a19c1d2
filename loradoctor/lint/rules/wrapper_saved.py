"""LD307."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Peft
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.lint.shells import shell_around
from loradoctor.rule import rule

_PARALLEL = ("torch.nn.DataParallel", "torch.nn.parallel.DataParallel", "torch.nn.parallel.DistributedDataParallel")


@rule("LD307", Severity.ERROR, "SV8")
def wrapper_saved(module: Module) -> Iterator[Finding]:
    """A model is saved through the data-parallel wrapper around it.

    `DataParallel` and `DistributedDataParallel` hold the model as `module` and hand none of its methods on. `save_pretrained`,
    `merge_and_unload` and `get_peft_model_state_dict` end in an `AttributeError`, after the training.

    ```python
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    model = torch.nn.DataParallel(model)
    model(input_ids=torch.tensor([[1]])).loss.backward()
    model.save_pretrained("runs/last")
    ```
    What to write instead:
    ```python
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), LoraConfig(task_type="CAUSAL_LM"))
    model = torch.nn.DataParallel(model)
    model(input_ids=torch.tensor([[1]])).loss.backward()
    model.module.save_pretrained("runs/last")
    ```
    With accelerate, `accelerator.unwrap_model(model)` gives the model back.
    """
    for site in module.calls("save_pretrained", "push_to_hub", "merge_and_unload", "peft.get_peft_model_state_dict"):
        func, passed = site.node.func, site.argument("model")
        method = not site.name.startswith("peft.")
        written = (func.value if isinstance(func, ir.Attr) else None) if method else (passed.value if passed else None)
        if written is None:
            continue

        def shelled(arrival: Arrival, expr: ir.Expr = written, method: bool = method) -> ir.Call | None:
            subject = arrival.receiver if method else arrival.arg("model")
            if not method and arrival.facts(subject, Peft) is None:
                return None
            return shell_around(arrival, subject, expr, _PARALLEL)

        found = site.sometimes(shelled)
        shell = shelled(found) if found else None
        if shell is None or _asked(module, site, written):
            continue
        kind = module.sites[shell.uid].name.rpartition(".")[2]
        _, end = module.span(written)
        plain = isinstance(written, (ir.Name, ir.Attr)) and site.always(shelled)
        yield site.finding(
            f"`{site.name.rpartition('.')[2]}` is called on the `{kind}` wrapper instead of the model in it",
            related=module.related(shell, "wrapped here"),
            help="the wrapper has no such method: `AttributeError`; the model is its `module`",
            fix=Fix("go through `module`", (module.source.edit(end, end, ".module"),), safe=False) if plain else None,
        )


def _asked(module: Module, site: Site, written: ir.Expr) -> bool:
    """Whether a condition around the call is about what there is around this model."""
    subject = re.escape(module.text(written))
    asks = re.compile(rf"hasattr\(\s*{subject}\s*,\s*[\"'](module|_orig_mod)|isinstance\(\s*{subject}\s*,")
    return any(asks.search(module.text(condition.test)) for condition in module.around(site.node))
