"""LD411."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Location, Related, Severity
from loradoctor.lint.flow.values import Items, Known
from loradoctor.lint.module import Arrival, Module, literal
from loradoctor.rule import rule


@rule("LD411", Severity.INFO, "CF16")
def not_servable(module: Module) -> Iterator[Finding]:
    """An adapter is configured with parts that vLLM, which the same project serves with, does not load.

    vLLM takes LoRA matrices and refuses what else an adapter can hold: whole modules of `modules_to_save`, trained biases and
    DoRA's magnitudes. The training runs through, and the refusal comes when the adapter is to be served.

    ```python
    from peft import LoraConfig
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    CONFIG = LoraConfig(r=8, use_dora=True, task_type="CAUSAL_LM")
    ANSWERS = LLM("gpt2", enable_lora=True).generate("hello", lora_request=LoRARequest("last", 1, "runs/last"))
    ```
    What to write instead:
    ```python
    from peft import LoraConfig
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    CONFIG = LoraConfig(r=8, task_type="CAUSAL_LM")
    ANSWERS = LLM("gpt2", enable_lora=True).generate("hello", lora_request=LoRARequest("last", 1, "runs/last"))
    ```
    An adapter that needs those parts can be merged and served as a model.
    """
    served = any(name.partition(".")[0] == "vllm" for name in module.imports) and "LoRARequest" in module.program.words
    if "merge_and_unload" in module.program.words:
        return
    for site in module.calls("peft.LoraConfig"):
        part = next((found for a in site.arrivals if (found := _part(a))), None)
        beside = module.served_beside if part is not None and not served else None
        if part is not None and (served or beside is not None):
            yield site.finding(
                f"vLLM does not serve an adapter with {part}",
                related=(Related("the adapter is served here", Location(beside)),) if beside else (),
                help="it refuses the adapter when it is loaded; leave the part out, or merge the adapter and serve the model",
            )


def _part(arrival: Arrival) -> str | None:
    """What a configuration asks for beside LoRA matrices, if it does so for certain."""
    if arrival.arg("use_dora") == Known(value=True):
        return "`use_dora=True`"
    if literal(arrival.arg("bias")) in ("all", "lora_only") and "enable_lora_bias" not in arrival.module.source.text:
        return "trained biases"
    modules = arrival.arg("modules_to_save")
    return "`modules_to_save`" if isinstance(modules, Items) and modules.items else None
