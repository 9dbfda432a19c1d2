"""LD451."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Peft
from loradoctor.lint.flow.values import Known
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD451", Severity.INFO, "SE2")
def pickle_adapter_saved(module: Module) -> Iterator[Finding]:
    """An adapter is saved as a pickle instead of a safetensors file.

    With `safe_serialization=False` PEFT writes `adapter_model.bin`, a pickle. Loading one can run code, so hubs mark it,
    scanners stop at it and careful readers refuse it. The same tensors as `adapter_model.safetensors` carry no code.

    ```python
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained("runs/last")
    model.save_pretrained("runs/copy", safe_serialization=False)
    ```
    What to write instead:
    ```python
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained("runs/last")
    model.save_pretrained("runs/copy", safe_serialization=True)
    ```
    """

    def pickled(arrival: Arrival) -> bool:
        facts = arrival.facts(arrival.receiver, Peft)
        return facts is not None and not facts.gutted and arrival.arg("safe_serialization") == Known(value=False)

    for site in module.calls("save_pretrained"):
        if not site.sometimes(pickled):
            continue
        given = site.argument("safe_serialization")
        literal = given is not None and isinstance(given.value, ir.Const)
        read_by_name = "adapter_model.bin" in module.source.text
        yield site.finding(
            "the adapter is saved as a pickle, `adapter_model.bin`",
            help="a pickle can run code when it is loaded, and many refuse it; leave `safe_serialization` at `True`",
            fix=Fix("save safetensors", (module.replace(given.value, "True"),), safe=not read_by_name) if given and literal else None,
        )
